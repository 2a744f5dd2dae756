// Owns looking up embeddings: rows of a table of floats, or of a matrix that is packed for products.
// Legend: M rows, D features, r a row's place in its strip.
import { invariant } from '../../../../common/errors.ts';
import { type Mem, mem, offset, ripMem } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, r32, rax, resized, type Vec } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { Lanes, NUM_LANES, type Wide } from '../lanes.ts';
import { type OpFrame, opMem } from '../op.ts';
import { BLOCK } from '../product/abi.ts';
import {
  type FloatLayout,
  headerField,
  type IntegerLayout,
  numBlocksOf,
  type PackedLayout,
  STEP_BYTES,
  STRIP_ROWS,
  SUPER_BLOCKS,
  stripBytes,
} from '../product/layout.ts';
import { cutRows, emitEach16, emitRowOp, emitRowPointer, floatsObstacle, opLayout } from './row-op.ts';

/** Rows of floats one after the other, as in files. */
export interface RowTable {
  readonly kind: 'rows';
  readonly format: FloatLayout['format'];
}

export interface EmbedOptions {
  readonly isa: Isa;
  readonly numFeatures: number;
  readonly table: RowTable | PackedLayout;
  /** Factor on the embeddings. */
  readonly scale: number;
}

/**
 * tokens I32 [M], table, out F32 [M,D]. A token below 0 stands for -1 - i where result i of the step before is meant:
 * I32 at sampled + i * sampledBytes.
 */
export const embedOp = opLayout('tokens', 'sampled', 'sampledBytes', 'table', 'out', 'outRowBytes');

export function emitEmbed({ isa, numFeatures: D, table, scale }: EmbedOptions): MachineCode {
  const obstacle = floatsObstacle(D);
  invariant(obstacle === null, obstacle ?? '');
  const { field } = embedOp;
  return emitRowOp(
    `embed_${table.kind}_${table.format}_${D}_${isa}`,
    cutRows(D),
    () => {},
    (o, _, row) => {
      const { a, f, op } = o;
      const [token, source, out, count] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
      a.mov(token, opMem(op, field.tokens));
      a.movsxd(token, mem(token, 0, { index: row, scale: 4 }));
      const known = a.label('token');
      a.test(token, token);
      a.jns(known);
      a.not(token);
      a.imul(token, opMem(op, field.sampledBytes));
      a.add(token, opMem(op, field.sampled));
      a.movsxd(token, mem(token));
      a.bind(known);
      emitRowPointer(o, out, row, field.out, field.outRowBytes);
      a.mov(source, token);
      if (table.kind === 'rows') a.imul3(source, source, D * (table.format === 'F32' ? 4 : 2));
      else {
        a.shr(source, Math.log2(STRIP_ROWS));
        a.imul3(source, source, stripBytes(table, D));
        a.and(token, STRIP_ROWS - 1);
      }
      a.add(source, opMem(op, field.table));
      const look = new LookUp(o, isa, D, scale, { source, out, count, r: token });
      if (table.kind === 'rows') look.emitRow(table.format, source);
      else if (table.kind === 'float') look.emitFloats(table);
      else look.emitIntegers(table);
      f.release(token, source, out, count);
    },
  );
}

interface LookUpRegisters {
  /** The row, or its strip. */
  readonly source: Gpr;
  readonly out: Gpr;
  readonly count: Gpr;
  readonly r: Gpr;
}

class LookUp {
  readonly #o: OpFrame;
  readonly #lanes: Lanes;
  readonly #numFeatures: number;
  readonly #scale: number;
  readonly #registers: LookUpRegisters;

  constructor(o: OpFrame, isa: Isa, numFeatures: number, scale: number, registers: LookUpRegisters) {
    this.#o = o;
    this.#lanes = new Lanes(o.a, isa);
    this.#numFeatures = numFeatures;
    this.#scale = scale;
    this.#registers = registers;
  }

  /** Floats at `from`, which may be part of `out`, its last bytes. */
  emitRow(format: FloatLayout['format'], from: Gpr): void {
    const { out, count } = this.#registers;
    const { a } = this.#o;
    const lanes = this.#lanes;
    const value = lanes.take();
    // Two pointers that move at different speeds.
    const step = format === 'F32' ? 4 : 2;
    a.mov(count, 0);
    const loop = a.here('vector');
    const place = mem(from, 0, { index: count, scale: step === 4 ? 2 : 1 });
    if (format === 'F32') lanes.load(value, place);
    else if (format === 'F16') lanes.loadHalf(value, place);
    else {
      for (const [i, part] of value.entries()) a.vpmovzxwd(part, offset(place, (i * part.bits) / 16));
      lanes.shiftLeft(value, value, 16);
    }
    this.#emitStore(value, mem(out, 0, { index: count, scale: 2 }));
    a.add(count, 2 * NUM_LANES);
    a.cmp(count, 2 * this.#numFeatures);
    a.jl(loop);
  }

  /** A strip of floats: element k of row r stands at 32 k + r. They are gathered at the end of `out` first. */
  emitFloats({ format, elementBytes }: FloatLayout): void {
    const { source, out, count, r } = this.#registers;
    const { a, f } = this.#o;
    const [target, other] = [f.gpr(), f.gpr()];
    const stride = STRIP_ROWS * elementBytes;
    a.lea(source, mem(source, 0, { index: r, scale: elementBytes }));
    a.lea(target, mem(out, (4 - elementBytes) * this.#numFeatures));
    a.mov(count, this.#numFeatures / 4);
    const loop = a.here('gather');
    for (let i = 0; i < 4; i += 4 / elementBytes) {
      if (elementBytes === 4) a.mov(r32(rax), mem(source, stride * i));
      else {
        a.movzxw(r32(rax), mem(source, stride * i));
        a.movzxw(r32(other), mem(source, stride * (i + 1)));
        a.shl(other, 16);
        a.or(rax, other);
      }
      a.mov(mem(target, elementBytes * i), r32(rax));
    }
    a.add(source, 4 * stride);
    a.add(target, 4 * elementBytes);
    a.sub(count, 1);
    a.jne(loop);
    a.lea(target, mem(out, (4 - elementBytes) * this.#numFeatures));
    if (format !== 'F32' || this.#scale !== 1) this.emitRow(format, target);
    f.release(target, other);
  }

  /** A strip of blocks: 4 bytes of the row in each step. */
  emitIntegers(layout: IntegerLayout): void {
    const { source, out, count, r } = this.#registers;
    const { a, f } = this.#o;
    const lanes = this.#lanes;
    const numBlocks = numBlocksOf(layout, this.#numFeatures);
    const hasHeader = layout.headerBytes > 0;
    const block = new BlockEmitter(this.#o, lanes, layout, source, r);
    const left = f.gpr();
    a.mov(left, hasHeader ? numBlocks / SUPER_BLOCKS : 1);
    const headers = a.here('header');
    if (hasHeader) {
      block.emitFactors();
      a.add(source, layout.headerBytes);
    }
    a.mov(count, hasHeader ? SUPER_BLOCKS : numBlocks);
    const loop = a.here('block');
    block.emit((half, value) => this.#emitStore(value, mem(out, 4 * NUM_LANES * half)));
    a.add(source, layout.blockBytes);
    a.add(out, 4 * BLOCK);
    a.sub(count, 1);
    a.jne(loop);
    a.sub(left, 1);
    a.jne(headers);
    f.release(left);
  }

  #emitStore(value: Wide, place: Mem): void {
    if (this.#scale !== 1) this.#lanes.op('vmulps', value, value, this.#lanes.constant(this.#scale));
    this.#lanes.store(place, value);
  }
}

const low = (register: Vec): Vec => resized(register, 128);

/** Emits the values of one row in a block of a strip. */
class BlockEmitter {
  readonly #a;
  readonly #lanes: Lanes;
  readonly #layout: IntegerLayout;
  readonly #source: Gpr;
  readonly #r: Gpr;
  readonly #value: Wide;
  readonly #scale: Wide;
  readonly #minimum: Wide;
  /** xmm registers: bytes of the two halves, temporaries, the header's factors. */
  readonly #registers: readonly Vec[];

  constructor({ a }: OpFrame, lanes: Lanes, layout: IntegerLayout, source: Gpr, r: Gpr) {
    this.#a = a;
    this.#lanes = lanes;
    this.#layout = layout;
    this.#source = source;
    this.#r = r;
    this.#registers = Array.from({ length: 6 }, () => low(lanes.takeSplat()[0] as Vec));
    [this.#value, this.#scale, this.#minimum] = [lanes.take(), lanes.takeSplat(), lanes.takeSplat()];
  }

  #at(offsetBytes: number, unit: 1 | 2 | 4): Mem {
    return mem(this.#source, offsetBytes, { index: this.#r, scale: unit });
  }

  /** Factors of the header at the source. */
  emitFactors(): void {
    const [scale, minimum] = this.#registers.slice(4) as [Vec, Vec];
    this.#emitHalf(scale, headerField.scales);
    if (this.#layout.minima !== null) this.#emitHalf(minimum, headerField.minima);
  }

  /** One F16 of the row, in all lanes. */
  #emitHalf(dst: Vec, at: number): void {
    const halves = resized(dst, dst.bits === 512 ? 256 : 128);
    this.#a.vpbroadcastw(halves, this.#at(at, 2));
    this.#a.vcvtph2ps(dst, halves);
  }

  emit(store: (half: 0 | 1, value: Wide) => void): void {
    const { groupSize, quantScale, minima, bits } = this.#layout;
    const lanes = this.#lanes;
    const value = this.#value;
    this.#emitBytes();
    for (const half of [0, 1] as const) {
      if (half === 0 || groupSize === BLOCK / 2) this.#emitGroup(half);
      this.#emitFloats(value, this.#registers[half] as Vec);
      if (bits === 8 && quantScale !== 1) lanes.op('vmulps', value, value, lanes.constant(1 / quantScale));
      lanes.op('vmulps', value, value, this.#scale);
      if (minima !== null)
        lanes.op(this.#layout.scaleType === 'f16' ? 'vaddps' : 'vsubps', value, value, this.#minimum);
      store(half, value);
    }
  }

  /** Scale and minimum of a group. */
  #emitGroup(group: number): void {
    const { scaleType, scales, minima } = this.#layout;
    const a = this.#a;
    const entry = group * STRIP_ROWS;
    for (const [i, { dst, at }] of [
      { dst: this.#scale, at: scales },
      { dst: this.#minimum, at: minima },
    ].entries()) {
      if (at === null) continue;
      if (scaleType === 'f16') {
        this.#emitHalf(dst[0] as Vec, at + 2 * entry);
        continue;
      }
      const [temporary, factor] = [this.#registers[2], this.#registers[4 + i]] as [Vec, Vec];
      if (scaleType === 's8') a.movsxb(rax, this.#at(at + entry, 1));
      else a.movzxb(rax, this.#at(at + entry, 1));
      a.vcvtsi2ss(temporary, temporary, rax);
      a.vmulss(temporary, temporary, factor);
      this.#lanes.spread(dst, temporary);
    }
  }

  /** The row's bytes of the block, 16 elements in each of the first two registers, signed or not. */
  #emitBytes(): void {
    const { bits, centre, table, quantScale } = this.#layout;
    const a = this.#a;
    const [first, second, t] = this.#registers as [Vec, Vec, Vec];
    const bytes = (values: ArrayLike<number>) => ripMem(a.constant(Uint8Array.from(values)));
    const splat = (value: number) => bytes(new Uint8Array(16).fill(value));
    this.#emitQuads(first, 0);
    if (bits === 8) {
      this.#emitQuads(second, 4);
      for (const half of [first, second]) if (centre > 0) a.vpxor(half, half, splat(centre));
      return;
    }
    a.vpsrld(t, first, 4);
    a.vpand(t, t, splat(0x0f));
    a.vpand(first, first, splat(0x0f));
    a.vpunpckhdq(second, first, t);
    a.vpunpckldq(first, first, t);
    a.vmovups(t, bytes(Array.from({ length: 16 }, (_, i) => table?.[i] ?? (i - centre) / quantScale)));
    for (const half of [first, second]) a.vpshufb(half, t, half);
  }

  /** 4 bytes of four steps. */
  #emitQuads(dst: Vec, step: number): void {
    const a = this.#a;
    const [t, u] = this.#registers.slice(2) as [Vec, Vec];
    const quad = (i: number) => this.#at((step + i) * STEP_BYTES, 4);
    a.vmovd(dst, quad(0));
    a.vmovd(t, quad(1));
    a.vpunpckldq(dst, dst, t);
    a.vmovd(t, quad(2));
    a.vmovd(u, quad(3));
    a.vpunpckldq(t, t, u);
    a.vpunpcklqdq(dst, dst, t);
  }

  /** 16 bytes → 16 floats. */
  #emitFloats(dst: Wide, bytes: Vec): void {
    const a = this.#a;
    const isUnsigned = this.#layout.bits === 8 && this.#layout.centre === 0;
    for (const [i, part] of dst.entries()) {
      if (i > 0) a.vpsrldq(bytes, bytes, 8);
      a[isUnsigned ? 'vpmovzxbd' : 'vpmovsxbd'](part, bytes);
    }
    this.#lanes.convert('vcvtdq2ps', dst, dst);
  }
}
