// Owns the inner loop of a product: one strip of W by up to TILE_ROWS rows of x.
// Legend: C rows of x in the tile, R = 2 registers of rows of W.
import { invariant } from '../../../common/errors.ts';
import type { Assembler } from '../asm/assembler.ts';
import { type Mem, mem, ripMem, type VecOrMem } from '../asm/operands.ts';
import { type Gpr, r32, type Vec, ymm, zmm } from '../asm/registers.ts';
import { BLOCK, type StripLayout } from './product-abi.ts';

/** General registers of a tile. */
export interface TileRegisters {
  /** First block of the strip; kept. */
  readonly strip: Gpr;
  /** Records of the tile; ends behind them. */
  readonly records: Gpr;
  /** dst of the strip's first row of W and the tile's first row of x; ends C rows further. */
  readonly out: Gpr;
  readonly outStride: Gpr;
  /** Rows of W from the strip's first on. */
  readonly rowsLeft: Gpr;
  /** 64-byte aligned memory of accumulatorBytes. */
  readonly accumulators: Gpr;
  /** Free to use. */
  readonly block: Gpr;
  readonly count: Gpr;
}

const PARTS = 2;
export const accumulatorBytes = (numColumns: number): number => numColumns * PARTS * 64;

/**
 * y = Σ over blocks, in order: acc = fma(F32(Σ q·a) * scale of x, scale of w, acc), then acc = fma(minimum of w,
 * scaledSum of x, acc). The sum in the block is an exact integer, so it may be taken in any order.
 */
export class TileEmitter {
  readonly #a: Assembler;
  readonly #layout: StripLayout;
  readonly #registers: TileRegisters;
  readonly #C: number;
  readonly #vectorBytes: number;
  /** [part + 2 * column] */
  readonly #sums: Vec[] = [];
  /** In registers where they suffice, else in memory. */
  readonly #totals: Vec[] | null;
  readonly #weights: readonly [Vec, Vec];
  readonly #activation: Vec;
  readonly #product: Vec;
  /** A register for the nibble mask, where one is left. */
  readonly #mask: Vec | null;

  constructor(a: Assembler, layout: StripLayout, registers: TileRegisters, numColumns: number) {
    this.#a = a;
    this.#layout = layout;
    this.#registers = registers;
    this.#C = numColumns;
    const isWide = layout.isa === 'avx512';
    this.#vectorBytes = isWide ? 64 : 32;
    const free = Array.from({ length: isWide ? 32 : 16 }, (_, id) => (isWide ? zmm(id) : ymm(id)));
    const take = (): Vec => {
      const register = free.shift();
      invariant(register, 'no vector register left');
      return register;
    };
    // The low registers have short encodings: those that most instructions name.
    this.#weights = [take(), take()];
    this.#activation = take();
    this.#product = take();
    const count = PARTS * numColumns;
    this.#sums = Array.from({ length: count }, take);
    this.#totals = free.length >= count ? Array.from({ length: count }, take) : null;
    this.#mask = layout.format !== 'Q8_0' && free.length > 0 ? take() : null;
  }

  /** Before the first tile. */
  emitConstants(): void {
    if (this.#mask) this.#a.vmovups(this.#mask, this.#nibbles());
  }

  /** `numBlocks`: memory that holds K / 32. */
  emit(numBlocks: Mem): void {
    const a = this.#a;
    const { strip, records, block, count } = this.#registers;
    a.mov(block, strip);
    a.mov(count, numBlocks);
    this.#clearTotals();
    a.align(32);
    const loop = a.here('block');
    if (this.#layout.format === 'Q8_0') this.#sumBytes();
    else this.#sumNibbles();
    this.#addToTotals();
    a.add(block, this.#layout.blockBytes);
    a.add(records, this.#C * this.#layout.record.bytes);
    a.sub(count, 1);
    a.jne(loop);
    this.#store();
  }

  #clearTotals(): void {
    const a = this.#a;
    for (const total of this.#totals ?? []) this.#xor(total);
    if (this.#totals) return;
    this.#xor(this.#product);
    for (let i = 0; i < PARTS * this.#C; i++) a.vmovups(this.#memoryTotal(i), this.#product);
  }

  #sumBytes(): void {
    const a = this.#a;
    const { unitBytes } = this.#layout;
    const stepBytes = PARTS * this.#layout.lanes * unitBytes;
    for (let step = 0; step < BLOCK / unitBytes; step++) {
      for (const [part, weight] of this.#weights.entries()) {
        const place = mem(this.#registers.block, step * stepBytes + (part * stepBytes) / PARTS);
        if (unitBytes === 2) a.vpmovsxbw(weight, place);
        else a.vmovups(weight, place);
      }
      this.#multiply(4 * step, step === 0);
    }
  }

  #sumNibbles(): void {
    const a = this.#a;
    const half = BLOCK / 2;
    for (let quad = 0; quad < half / 4; quad++) {
      const place = (part: number) => mem(this.#registers.block, (quad * PARTS + part) * this.#vectorBytes);
      for (const [part, weight] of this.#weights.entries()) {
        if (this.#mask) this.#and(weight, this.#mask, place(part));
        else {
          a.vmovups(weight, place(part));
          this.#and(weight, weight, this.#nibbles());
        }
      }
      this.#multiply(4 * quad, quad === 0);
      for (const [part, weight] of this.#weights.entries()) {
        a.vmovups(weight, place(part));
        a.vpsrlw(weight, weight, 4);
        this.#and(weight, weight, this.#mask ?? this.#nibbles());
      }
      this.#multiply(half + 4 * quad, false);
    }
  }

  /** Adds to each sum the products of the weights with the 4 bytes at `offset` of each record. */
  #multiply(offset: number, isFirst: boolean): void {
    const a = this.#a;
    const { isa, record, unitBytes } = this.#layout;
    for (let column = 0; column < this.#C; column++) {
      a.vpbroadcastd(this.#activation, mem(this.#registers.records, column * record.bytes + offset));
      for (const [part, weight] of this.#weights.entries()) {
        const sum = this.#sum(column, part);
        if (isa === 'avx512') {
          if (isFirst) this.#xor(sum);
          a.vpdpbusd(sum, weight, this.#activation);
          continue;
        }
        // u4 by s8: eight sums of two products are at most 8 * 2 * 15 * 128, which 16 bits hold.
        const target = isFirst ? sum : this.#product;
        if (unitBytes === 2) a.vpmaddwd(target, weight, this.#activation);
        else a.vpmaddubsw(target, weight, this.#activation);
        if (isFirst) continue;
        if (unitBytes === 2) a.vpaddd(sum, sum, target);
        else a.vpaddw(sum, sum, target);
      }
    }
  }

  #addToTotals(): void {
    const a = this.#a;
    const { isa, lanes, unitBytes, offset, scales, minima, record } = this.#layout;
    const { block, records } = this.#registers;
    const [scale, minimum] = this.#weights;
    const isNarrow = isa === 'avx2' && unitBytes === 4;
    const ones = this.#product;
    const activation = this.#activation;
    if (isNarrow) a.vmovups(ones, ripMem(a.constant(new Uint32Array(8).fill(0x0001_0001))));
    for (let part = 0; part < PARTS; part++) {
      a.vcvtph2ps(scale, mem(block, scales + part * lanes * 2));
      if (minima !== null) a.vcvtph2ps(minimum, mem(block, minima + part * lanes * 2));
      for (let column = 0; column < this.#C; column++) {
        const sum = this.#sum(column, part);
        const field = (at: number) => mem(records, column * record.bytes + at);
        if (isNarrow) a.vpmaddwd(sum, sum, ones);
        if (offset > 0) {
          a.vpbroadcastd(activation, field(record.sum));
          a.vpslld(activation, activation, Math.log2(offset));
          a.vpsubd(sum, sum, activation);
        }
        a.vcvtdq2ps(sum, sum);
        a.vbroadcastss(activation, field(record.scale));
        a.vmulps(sum, sum, activation);
        const inRegister = this.#totals?.[column * PARTS + part];
        const memory = this.#memoryTotal(column * PARTS + part);
        if (inRegister) a.vfmadd231ps(inRegister, sum, scale);
        else a.vfmadd213ps(sum, scale, memory);
        const total = inRegister ?? sum;
        if (minima !== null) {
          a.vbroadcastss(activation, field(record.scaledSum));
          a.vfmadd231ps(total, minimum, activation);
        }
        if (!inRegister) a.vmovups(memory, total);
      }
    }
  }

  /** A last strip that is not full goes through memory, so that nothing behind its rows is written. */
  #store(): void {
    const a = this.#a;
    const { out, outStride, rowsLeft, accumulators, block, count } = this.#registers;
    const [ragged, done] = [a.label('ragged'), a.label('stored')];
    a.cmp(rowsLeft, this.#layout.rows);
    a.jl(ragged);
    for (let column = 0; column < this.#C; column++) {
      for (let part = 0; part < PARTS; part++) {
        const index = column * PARTS + part;
        const value = this.#totals?.[index] ?? this.#product;
        if (!this.#totals) a.vmovups(value, this.#memoryTotal(index));
        a.vmovups(mem(out, part * this.#vectorBytes), value);
      }
      a.add(out, outStride);
    }
    a.jmp(done);
    a.bind(ragged);
    for (const [index, total] of (this.#totals ?? []).entries()) a.vmovups(this.#memoryTotal(index), total);
    for (let column = 0; column < this.#C; column++) {
      a.mov(count, 0);
      const copy = a.here('copy');
      a.mov(r32(block), mem(accumulators, column * PARTS * this.#vectorBytes, { index: count, scale: 4 }));
      a.mov(mem(out, 0, { index: count, scale: 4 }), r32(block));
      a.add(count, 1);
      a.cmp(count, rowsLeft);
      a.jl(copy);
      a.add(out, outStride);
    }
    a.bind(done);
  }

  #sum(column: number, part: number): Vec {
    const sum = this.#sums[column * PARTS + part];
    invariant(sum, 'a sum for each part of each column');
    return sum;
  }

  #memoryTotal(index: number): Mem {
    return mem(this.#registers.accumulators, index * this.#vectorBytes);
  }

  #nibbles(): Mem {
    return ripMem(this.#a.constant(new Uint8Array(this.#vectorBytes).fill(15)));
  }

  #and(dst: Vec, source: Vec, mask: VecOrMem): void {
    if (dst.bits === 512) this.#a.vpandd(dst, source, mask);
    else this.#a.vpand(dst, source, mask);
  }

  #xor(dst: Vec): void {
    this.#a.vxorps(dst, dst, dst);
  }
}
