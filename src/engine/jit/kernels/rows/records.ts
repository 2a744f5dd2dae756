// Owns rounding of activations to records: blocks of 32 floats in registers become quants, their scale and their sums.
import type { Assembler } from '../../asm/assembler.ts';
import type { Frame } from '../../asm/function.ts';
import { broadcast, type Mem, mem, offset, ripMem } from '../../asm/operands.ts';
import { type Gpr, resized, type Vec } from '../../asm/registers.ts';
import { type Lanes, NUM_LANES, type Wide } from '../lanes.ts';
import { BLOCK, FINE_BASE, MIN_ABSMAX, type RecordLayout, SUM_FACTOR } from '../product/abi.ts';
import { emitEach16 } from './row-op.ts';

/** Where the values of a row come from: code that leaves 16 of them in `dst`, `at` floats from where `index` stands. */
export interface ValueSource {
  /** Called once for every place; has three temporaries or more. */
  readonly first: (dst: Wide, at: number, temporaries: readonly Wide[]) => void;
  /** Emits what is to be done once between them. */
  readonly between?: () => void;
  /** Called in the same order once all maxima are known; the same values again. */
  readonly again: (dst: Wide, at: number, temporaries: readonly Wide[]) => void;
  /** F32 that multiplies the scales: a factor of a whole row need not be applied to its values. */
  readonly factor: Mem | null;
}

/** As part of a kernel's name. */
export const rowsName = (record: RecordLayout | null): string =>
  record === null ? 'floats' : record.isFine ? 'fine_records' : 'records';

/** imm8 of vrangeps: the larger magnitude, sign cleared. */
const LARGER_MAGNITUDE = 0b1011;
const FINE_SHIFT = 8; // FINE_BASE = 2^8 - 1

const ones = new Uint8Array(64).fill(1);
/** Packing works within 128-bit lanes: each has 4 bytes of four vectors. */
const wideOrder = Int32Array.from({ length: 16 }, (_, i) => 4 * (i % 4) + (i >> 2));

const low = (register: Vec): Vec => resized(register, 128);
const half = (register: Vec): Vec => resized(register, 256);

/** Bytes of records, and how they count in sums. */
interface Plane {
  readonly quants: readonly Vec[];
  readonly at: number;
  readonly weight: number;
}

/**
 * Emits the records of `numBlocks` blocks in three rounds: largest magnitudes of all blocks, their scales, and the
 * rounding; in one round each batch would wait for its own divisions. A batch is four blocks with AVX-512, which take
 * folds together, and one with AVX2. Bits are the same.
 */
export class RecordWriter {
  /** Byte offset of the current batch in a row of floats: an index that sources use. */
  readonly index: Gpr;
  readonly #a: Assembler;
  readonly #lanes: Lanes;
  readonly #record: RecordLayout;
  readonly #numBlocks: number;
  readonly #batch: 1 | 4;
  /** The same in a row of one float per block. */
  readonly #cell: Gpr;
  /** [numBlocks] F32, padded: largest magnitudes, then what values are multiplied with. */
  readonly #inverses: Mem;
  readonly #scales: Mem;
  readonly #values: readonly Wide[];
  readonly #temporaries: readonly Wide[];
  /** With AVX-512: the order of packed dwords, and bytes of 1. */
  readonly #constants: readonly Wide[];

  constructor(a: Assembler, f: Frame, lanes: Lanes, record: RecordLayout, numBlocks: number) {
    const isWide = lanes.isa === 'avx512';
    const take = (count: number) => Array.from({ length: count }, () => lanes.take());
    this.#a = a;
    this.#lanes = lanes;
    this.#record = record;
    this.#numBlocks = numBlocks;
    this.#batch = isWide ? 4 : 1;
    [this.index, this.#cell] = [f.gpr(), f.gpr()];
    const indexed = () => ({ ...f.local(4 * this.#paddedBlocks), index: this.#cell, bytes: undefined });
    [this.#inverses, this.#scales] = [indexed(), indexed()];
    this.#values = take(2 * this.#batch);
    // The last ones hold the high parts of fine quants.
    this.#temporaries = take(isWide ? (record.isFine ? 13 : 5) : 4);
    this.#constants = take(isWide ? 2 : 0);
  }

  /** Registers that may be released when all is emitted. */
  get registers(): readonly Gpr[] {
    return [this.index, this.#cell];
  }

  /** `target` ends behind the records. */
  emit(target: Gpr, { first, between, again, factor }: ValueSource): void {
    const a = this.#a;
    const lanes = this.#lanes;
    const values = (numBlocks: number) => this.#values.slice(0, 2 * numBlocks);
    this.#emitBatches((numBlocks) => {
      for (const [i, value] of values(numBlocks).entries()) first(value, i * NUM_LANES, this.#temporaries);
      if (this.#batch === 4) this.#emitWideMaxima(values(numBlocks).flat());
      else this.#emitNarrowMaximum(values(1).flat());
    });
    between?.();
    a.mov(this.#cell, 0);
    const [max, inverse, scale] = this.#temporaries as [Wide, Wide, Wide];
    emitEach16(a, this.#paddedBlocks, this.index, [this.#cell], (at) => {
      lanes.load(max, offset(this.#inverses, 4 * at));
      lanes.op('vmaxps', max, max, lanes.constant(MIN_ABSMAX));
      lanes.load(inverse, lanes.constant(this.#record.maxQuant));
      lanes.op('vdivps', scale, max, inverse);
      lanes.op('vdivps', inverse, inverse, max);
      lanes.store(offset(this.#inverses, 4 * at), inverse);
      if (factor) {
        lanes.broadcast(inverse, factor);
        lanes.op('vmulps', scale, scale, inverse);
      }
      lanes.store(offset(this.#scales, 4 * at), scale);
    });
    for (const [i, constant] of this.#constants.entries())
      lanes.load(constant, ripMem(a.constant(i ? ones : wideOrder)));
    this.#emitBatches((numBlocks) => {
      for (const [i, value] of values(numBlocks).entries()) again(value, i * NUM_LANES, this.#temporaries);
      if (this.#batch === 4) this.#emitWideRecords(values(numBlocks).flat(), target);
      else this.#emitNarrowRecord(values(1).flat(), target);
      a.add(target, numBlocks * this.#record.bytes);
    });
  }

  get #paddedBlocks(): number {
    return Math.ceil(this.#numBlocks / NUM_LANES) * NUM_LANES;
  }

  #emitBatches(body: (numBlocks: number) => void): void {
    const a = this.#a;
    const batch = this.#batch;
    const blockBytes = 4 * BLOCK;
    const numWhole = Math.floor(this.#numBlocks / batch) * batch;
    a.mov(this.index, 0);
    a.mov(this.#cell, 0);
    if (numWhole > 0) {
      const loop = a.here('batch');
      body(batch);
      a.add(this.#cell, 4 * batch);
      a.add(this.index, blockBytes * batch);
      a.cmp(this.index, blockBytes * numWhole);
      a.jl(loop);
    }
    if (numWhole < this.#numBlocks) body(this.#numBlocks - numWhole);
  }

  /** Two zmm registers to a block; a block that is missing counts as the first one. */
  #emitWideMaxima(values: readonly Vec[]): void {
    const a = this.#a;
    const [m0, m1, m2, m3, t] = this.#temporaries.flat() as [Vec, Vec, Vec, Vec, Vec];
    for (const [block, m] of [m0, m1, m2, m3].entries()) {
      const [x = values[0], y = values[1]] = values.slice(2 * block) as [Vec?, Vec?];
      if (x && y) a.vrangeps(m, x, y, LARGER_MAGNITUDE);
    }
    for (const [x, y] of [
      [m0, m1],
      [m2, m3],
    ] as const) {
      a.vunpcklps(t, x, y);
      a.vunpckhps(x, x, y);
      a.vmaxps(x, x, t);
    }
    a.vshufps(t, m0, m2, 0b01_00_01_00);
    a.vshufps(m0, m0, m2, 0b11_10_11_10);
    a.vmaxps(m0, m0, t);
    this.#emitLanesFold(m0, t, 'vmaxps');
    a.vmovups(this.#inverses, low(m0));
  }

  /** Four ymm registers to a block. */
  #emitNarrowMaximum(values: readonly Vec[]): void {
    const a = this.#a;
    const [max, t] = this.#temporaries.flat() as [Vec, Vec];
    for (const [i, value] of values.entries()) {
      a.vandps(i === 0 ? max : t, value, this.#lanes.constantBits(0x7fff_ffff));
      if (i > 0) a.vmaxps(max, max, t);
    }
    a.vextractf128(low(t), max, 1);
    a.vmaxps(low(max), low(max), low(t));
    for (const order of [0b01_00_11_10, 0b10_11_00_01]) {
      a.vpermilps(low(t), low(max), order);
      a.vmaxps(low(max), low(max), low(t));
    }
    a.vmovss(this.#inverses, low(max));
  }

  #emitWideRecords(values: readonly Vec[], target: Gpr): void {
    const a = this.#a;
    const record = this.#record;
    const numBlocks = values.length / 2;
    const [t0, t1, t2, t3, t4] = this.#temporaries.flat() as [Vec, Vec, Vec, Vec, Vec];
    const [order, ones] = this.#constants.flat() as [Vec, Vec];
    for (const [i, value] of values.entries()) {
      a.vmulps(value, value, broadcast(offset(this.#inverses, 4 * (i >> 1))));
      a.vcvtps2dq(value, value);
    }
    const sums = [t1, t2] as const;
    for (const [index, { quants, at, weight }] of this.#planes(values, t0).entries()) {
      for (const [pair, sum] of sums.entries()) {
        const [q0, q1, q2 = q0, q3 = q1] = quants.slice(4 * pair) as [Vec?, Vec?, Vec?, Vec?];
        if (!q0 || !q1 || !q2 || !q3) continue;
        a.vpackssdw(t0, q0, q1);
        a.vpackssdw(t3, q2, q3);
        a.vpacksswb(t0, t0, t3);
        a.vpermd(t4, order, t0);
        const block = 2 * pair * record.bytes + at;
        a.vmovups(mem(target, block), half(t4));
        if (q2 !== q0) a.vextracti64x4(mem(target, block + record.bytes), t4, 1);
        a.vpmaddubsw(t3, ones, t0);
        this.#emitSums(sum, t3, weight, index > 0);
      }
    }
    // Dwords of a sum: the halves of two blocks.
    this.#emitLanesFold(t1, t0, 'vpaddd');
    if (numBlocks > 2) this.#emitLanesFold(t2, t0, 'vpaddd');
    else a.vmovaps(low(t2), low(t1));
    const [first, sum, scaled, scale] = [low(t0), low(t1), low(t2), low(values[1] as Vec)];
    a.vshufps(first, sum, scaled, 0b10_00_10_00);
    a.vshufps(sum, sum, scaled, 0b11_01_11_01);
    a.vpaddd(sum, sum, first);
    a.vmovups(scale, this.#scales);
    this.#emitScaledSums(scaled, sum, scale);
    const [x, y, all] = [low(t3), low(t4), low(values[0] as Vec)];
    for (const [block, unpack] of (['vunpcklps', 'vunpckhps'] as const).entries()) {
      if (2 * block >= numBlocks) break;
      a[unpack](x, scale, scaled);
      a[unpack](y, sum, first);
      for (const [i, unpackPair] of (['vunpcklps', 'vunpckhps'] as const).entries()) {
        if (2 * block + i >= numBlocks) break;
        a[unpackPair](all, x, y);
        a.vmovups(mem(target, (2 * block + i) * record.bytes + record.scale), all);
      }
    }
  }

  #emitNarrowRecord(values: readonly Vec[], target: Gpr): void {
    const a = this.#a;
    const record = this.#record;
    const [t0, t1, scale, t3] = this.#temporaries.flat() as [Vec, Vec, Vec, Vec];
    a.vbroadcastss(t1, this.#inverses);
    for (const value of values) {
      a.vmulps(value, value, t1);
      a.vcvtps2dq(value, value);
    }
    for (const [index, { quants, at, weight }] of this.#planes(values, t0).entries()) {
      const [q0, q1, q2, q3] = quants as [Vec, Vec, Vec, Vec];
      a.vpackssdw(q0, q0, q1);
      a.vpackssdw(q2, q2, q3);
      a.vpacksswb(q0, q0, q2);
      // Packing works within 128-bit lanes and leaves the groups of four in this order.
      a.vmovups(q1, ripMem(a.constant(Int32Array.of(0, 4, 1, 5, 2, 6, 3, 7))));
      a.vpermd(q0, q1, q0);
      a.vmovups(mem(target, at), q0);
      a.vmovups(q1, ripMem(a.constant(ones)));
      a.vpmaddubsw(q1, q1, q0);
      this.#emitSums(t3, q1, weight, index > 0);
    }
    for (const order of [0b01_00_11_10, 0b10_11_00_01]) {
      a.vpshufd(t0, t3, order);
      a.vpaddd(t3, t3, t0);
    }
    const [first, sum, scaled] = [low(t3), low(t0), low(t1)];
    a.vextracti128(sum, t3, 1);
    a.vpaddd(sum, sum, first);
    a.vmovss(low(scale), this.#scales);
    this.#emitScaledSums(scaled, sum, low(scale));
    a.vunpcklps(scaled, low(scale), scaled);
    a.vunpcklps(sum, sum, first);
    a.vunpcklps(scaled, scaled, sum);
    a.vmovups(mem(target, record.scale), scaled);
  }

  /** Splits fine quants: `values` keep their low parts. */
  #planes(values: readonly Vec[], temporary: Vec): Plane[] {
    const a = this.#a;
    const { isFine, high, low: lowPart } = this.#record;
    if (!isFine || lowPart === null) return [{ quants: values, at: high, weight: SUM_FACTOR }];
    const highs = this.#temporaries.flat().slice(-values.length);
    for (const [i, part] of highs.entries()) {
      const value = values[i] as Vec;
      a.vcvtdq2ps(part, value);
      a.vmulps(part, part, this.#lanes.constant(1 / FINE_BASE));
      a.vcvtps2dq(part, part);
      a.vpslld(temporary, part, FINE_SHIFT);
      a.vpsubd(temporary, temporary, part);
      a.vpsubd(value, value, temporary);
    }
    return [
      { quants: highs, at: high, weight: FINE_BASE * SUM_FACTOR },
      { quants: values, at: lowPart, weight: SUM_FACTOR },
    ];
  }

  /** sum: of pairs of words times `weight`, or that added to it. Changes the words. */
  #emitSums(sum: Vec, words: Vec, weight: number, isAdded: boolean): void {
    const a = this.#a;
    const weights = this.#lanes.constantBits((weight << 16) | (weight & 0xffff));
    a.vpmaddwd(isAdded ? words : sum, words, weights);
    if (isAdded) a.vpaddd(sum, sum, words);
  }

  /** Sums times SUM_FACTOR → sums rounded to F32, times `scale`. */
  #emitScaledSums(dst: Vec, sums: Vec, scale: Vec): void {
    const a = this.#a;
    a.vcvtdq2ps(dst, sums);
    a.vmulps(dst, dst, this.#lanes.constant(-1 / SUM_FACTOR));
    // 0 - dst * scale: a sum of 0 gives 0, not -0.
    a.vfnmadd213ps(dst, scale, this.#lanes.constant(0));
  }

  /** Folds the four 128-bit lanes onto the first. */
  #emitLanesFold(x: Vec, t: Vec, name: 'vmaxps' | 'vpaddd'): void {
    const a = this.#a;
    a.vextractf64x4(half(t), x, 1);
    a[name](half(x), half(x), half(t));
    a.vextractf32x4(low(t), half(x), 1);
    a[name](low(x), low(x), low(t));
  }
}

/** What keeps rows of this many floats from becoming records; null: nothing. */
export function recordObstacle(numFloats: number): string | null {
  return numFloats > 0 && numFloats % BLOCK === 0
    ? null
    : `rows of ${numFloats} floats are not whole blocks of ${BLOCK}`;
}
