// Owns rounding of activations to records: blocks of 32 floats in registers become quants, their scale and their sums.
import type { Assembler } from '../../asm/assembler.ts';
import type { Frame } from '../../asm/function.ts';
import { broadcast, type Mem, mem, offset, ripMem } from '../../asm/operands.ts';
import { type Gpr, resized, type Vec } from '../../asm/registers.ts';
import { type Lanes, NUM_LANES, type Wide } from '../lanes.ts';
import { BLOCK, FINE_BASE, MIN_ABSMAX, type RecordLayout, SUM_FACTOR } from '../product/abi.ts';

/** Where values come from. */
export interface ValueSource {
  /** Emits code that leaves the 16 floats that stand `at` floats from the source's place in `dst`; 3 temporaries or more. */
  readonly load: (dst: Wide, at: number, temporaries: readonly Wide[]) => void;
  /** Moves the source's place on by so many floats. */
  readonly advance: (count: number) => void;
  /** F32 that multiplies the scales: a factor of a whole row need not be applied to its values. */
  readonly factor: Mem | null;
}

/** imm8 of vrangeps: the larger magnitude, sign cleared. */
const LARGER_MAGNITUDE = 0b1011;
const FINE_SHIFT = 8; // FINE_BASE = 2^8 - 1

const low = (register: Vec): Vec => resized(register, 128);
const half = (register: Vec): Vec => resized(register, 256);

/** Bytes of a record, and how they count in its sums. */
interface Plane {
  readonly quants: readonly Vec[];
  readonly at: number;
  readonly weight: number;
}

/** With AVX-512 four blocks are rounded together, which halves the cost of folds and divisions. Bits are the same. */
export class RecordWriter {
  readonly #a: Assembler;
  readonly #lanes: Lanes;
  readonly #record: RecordLayout;
  readonly #batch: 1 | 4;
  readonly #scratch: Mem;
  /** Two for each block of a batch. */
  readonly #values: readonly Wide[];
  readonly #temporaries: readonly Wide[];
  /** High parts of fine quants. */
  readonly #highs: readonly Vec[];

  constructor(a: Assembler, f: Frame, lanes: Lanes, record: RecordLayout) {
    const isWide = lanes.isa === 'avx512';
    const take = (count: number) => Array.from({ length: count }, () => lanes.take());
    this.#a = a;
    this.#lanes = lanes;
    this.#record = record;
    this.#scratch = f.local(16);
    this.#batch = isWide ? 4 : 1;
    this.#values = take(2 * this.#batch);
    this.#temporaries = take(isWide ? 6 : 4);
    this.#highs = isWide ? (record.isFine ? take(8).flat() : []) : this.#temporaries.slice(2).flat();
  }

  /**
   * Emits the records of `count` blocks; `count` is changed, `target` ends behind them. Only the last chunk of a row of
   * `numBlocks` may have a count that is no multiple of 4.
   */
  emit(numBlocks: number, count: Gpr, target: Gpr, source: ValueSource): void {
    const a = this.#a;
    const batch = this.#batch;
    const [loop, rest, done] = [a.label('batch'), a.label('rest'), a.label('blocks_done')];
    a.sub(count, batch);
    a.jl(rest);
    a.bind(loop);
    this.#emitBatch(batch, target, source);
    source.advance(batch * BLOCK);
    a.add(target, batch * this.#record.bytes);
    a.sub(count, batch);
    a.jge(loop);
    a.bind(rest);
    if (numBlocks % batch > 0) {
      a.cmp(count, -batch);
      a.je(done);
      this.#emitBatch(numBlocks % batch, target, source);
    }
    a.bind(done);
  }

  #emitBatch(numBlocks: number, target: Gpr, { load, factor }: ValueSource): void {
    for (const [i, value] of this.#values.slice(0, 2 * numBlocks).entries())
      load(value, i * NUM_LANES, this.#temporaries);
    if (this.#batch === 4) this.#emitWide(numBlocks, target, factor);
    else this.#emitNarrow(target, factor);
  }

  /** Blocks of zmm registers. A block that is missing counts as the first one, and is not stored. */
  #emitWide(numBlocks: number, target: Gpr, factor: Mem | null): void {
    const a = this.#a;
    const record = this.#record;
    const values = this.#values.slice(0, 2 * numBlocks).flat();
    const [t0, t1, t2, t3, t4, t5] = this.#temporaries.flat() as [Vec, Vec, Vec, Vec, Vec, Vec];
    for (const [block, t] of [t0, t1, t2, t3].entries()) {
      const first = block < numBlocks ? 2 * block : 0;
      a.vrangeps(t, values[first] as Vec, values[first + 1] as Vec, LARGER_MAGNITUDE);
    }
    this.#emitTransposedMax([t0, t1, t2, t3], t4);
    const scale = low(t5);
    this.#emitScales(low(t0), low(t1), scale);
    if (factor) a.vmulps(scale, scale, broadcast(factor));
    a.vmovups(this.#scratch, low(t1));
    for (const [i, value] of values.entries()) {
      a.vmulps(value, value, broadcast(offset(this.#scratch, 4 * (i >> 1))));
      a.vcvtps2dq(value, value);
    }
    const sums = [t1, t2] as const;
    for (const [index, { quants, at, weight }] of this.#planes(values, t0).entries()) {
      for (const [pair, sum] of sums.entries()) {
        const [q0, q1, q2 = q0, q3 = q1] = quants.slice(4 * pair) as [Vec?, Vec?, Vec?, Vec?];
        if (!q0 || !q1 || !q2 || !q3) continue;
        // Packing works within 128-bit lanes: each has 4 bytes of q0, q1, q2 and q3.
        a.vpackssdw(t0, q0, q1);
        a.vpackssdw(t3, q2, q3);
        a.vpacksswb(t0, t0, t3);
        a.vmovups(t4, ripMem(a.constant(Int32Array.from({ length: 16 }, (_, i) => 4 * (i % 4) + (i >> 2)))));
        a.vpermd(t4, t4, t0);
        const block = 2 * pair * record.bytes + at;
        a.vmovups(mem(target, block), half(t4));
        if (q2 !== q0) a.vextracti64x4(mem(target, block + record.bytes), t4, 1);
        this.#emitByteSums(sum, t0, t3, weight, index > 0);
      }
    }
    // Dwords of a sum: the halves of two blocks.
    this.#emitLanesFold(t1, t0, 'vpaddd');
    if (numBlocks > 2) this.#emitLanesFold(t2, t0, 'vpaddd');
    else a.vmovaps(low(t2), low(t1));
    const [first, sum, scaled] = [low(t0), low(t1), low(t2)];
    a.vshufps(first, sum, scaled, 0b10_00_10_00);
    a.vshufps(sum, sum, scaled, 0b11_01_11_01);
    a.vpaddd(sum, sum, first);
    this.#emitScaledSums(scaled, sum, scale);
    const [x, y, all] = [low(t3), low(t4), low(values[0] as Vec)];
    for (const unpack of numBlocks > 2 ? (['vunpcklps', 'vunpckhps'] as const) : (['vunpcklps'] as const)) {
      a[unpack](x, scale, scaled);
      a[unpack](y, sum, first);
      const block = unpack === 'vunpcklps' ? 0 : 2;
      a.vunpcklps(all, x, y);
      a.vmovups(mem(target, block * record.bytes + record.scale), all);
      if (block + 1 >= numBlocks) continue;
      a.vunpckhps(all, x, y);
      a.vmovups(mem(target, (block + 1) * record.bytes + record.scale), all);
    }
  }

  /** One block of four ymm registers. */
  #emitNarrow(target: Gpr, factor: Mem | null): void {
    const a = this.#a;
    const record = this.#record;
    const values = this.#values.flat();
    const [t0, t1, t2, t3] = this.#temporaries.flat() as [Vec, Vec, Vec, Vec];
    for (const [i, value] of values.entries()) {
      a.vandps(i === 0 ? t0 : t1, value, this.#lanes.constantBits(0x7fff_ffff));
      if (i > 0) a.vmaxps(t0, t0, t1);
    }
    const [max, scale] = [low(t0), low(t2)];
    a.vextractf128(low(t1), t0, 1);
    a.vmaxps(max, max, low(t1));
    for (const order of [0b01_00_11_10, 0b10_11_00_01]) {
      a.vpermilps(low(t1), max, order);
      a.vmaxps(max, max, low(t1));
    }
    this.#emitScales(max, low(t1), scale);
    if (factor) a.vmulss(scale, scale, factor);
    a.vbroadcastss(t1, low(t1));
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
      this.#emitByteSums(t3, q0, q1, weight, index > 0);
    }
    for (const order of [0b01_00_11_10, 0b10_11_00_01]) {
      a.vpshufd(t0, t3, order);
      a.vpaddd(t3, t3, t0);
    }
    const [first, sum, scaled] = [low(t3), low(t0), low(t1)];
    a.vextracti128(sum, t3, 1);
    a.vpaddd(sum, sum, first);
    this.#emitScaledSums(scaled, sum, scale);
    a.vunpcklps(scaled, scale, scaled);
    a.vunpcklps(sum, sum, first);
    a.vunpcklps(scaled, scaled, sum);
    a.vmovups(mem(target, record.scale), scaled);
  }

  /** Splits fine quants: `values` keep their low parts. */
  #planes(values: readonly Vec[], temporary: Vec): Plane[] {
    const a = this.#a;
    const { isFine, high, low: lowPart } = this.#record;
    if (!isFine || lowPart === null) return [{ quants: values, at: high, weight: SUM_FACTOR }];
    const highs = this.#highs.slice(0, values.length);
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

  /** Largest magnitudes in `max` → scales, and what values are multiplied with. */
  #emitScales(max: Vec, inverse: Vec, scale: Vec): void {
    const a = this.#a;
    a.vmaxps(max, max, this.#lanes.constant(MIN_ABSMAX));
    a.vmovups(inverse, this.#lanes.constant(this.#record.maxQuant));
    a.vdivps(scale, max, inverse);
    a.vdivps(inverse, inverse, max);
  }

  /** sum: of groups of four bytes times `weight`, or that added to it. */
  #emitByteSums(sum: Vec, bytes: Vec, temporary: Vec, weight: number, isAdded: boolean): void {
    const a = this.#a;
    const words = this.#lanes.constantBits((weight << 16) | (weight & 0xffff));
    a.vmovups(temporary, ripMem(a.constant(new Uint8Array(64).fill(1))));
    a.vpmaddubsw(temporary, temporary, bytes);
    if (!isAdded) return a.vpmaddwd(sum, temporary, words);
    a.vpmaddwd(temporary, temporary, words);
    a.vpaddd(sum, sum, temporary);
  }

  /** Sums times SUM_FACTOR → sums rounded to F32, times `scale`. */
  #emitScaledSums(dst: Vec, sums: Vec, scale: Vec): void {
    const a = this.#a;
    a.vcvtdq2ps(dst, sums);
    a.vmulps(dst, dst, this.#lanes.constant(-1 / SUM_FACTOR));
    // 0 - dst * scale: a sum of 0 gives 0, not -0.
    a.vfnmadd213ps(dst, scale, this.#lanes.constant(0));
  }

  /** Four registers of 16 lanes: the largest of register i ends in dword i of the first. */
  #emitTransposedMax([m0, m1, m2, m3]: readonly [Vec, Vec, Vec, Vec], t: Vec): void {
    const a = this.#a;
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
