// Owns what the two forms of integer products share: registers, and places in blocks and records.
// Legend: C rows of x, limbs: signed bytes per activation (2 where they are fine), g a group of elements that share a scale.
import { invariant } from '../../../../common/errors.ts';
import type { Mem } from '../../asm/operands.ts';
import type { Vec } from '../../asm/registers.ts';
import { BLOCK, fineRecord, plainRecord, type RecordLayout } from './abi.ts';
import { type IntegerLayout, nibbleStep, STEP_BYTES } from './layout.ts';
import { PARTS, type TileCode } from './registers.ts';

/** Consecutive elements that one instruction multiplies. */
export const QUAD = 4;
export const NIBBLE_BITS = 4;

/** How an instruction set makes sums of products of integers. */
export interface Multiplier {
  /** Totals are too large by it, a power of two. */
  readonly totalScale: number;
  /** Parts whose sums are added to totals together. */
  readonly partsTogether: readonly (readonly number[])[];
  /** Before the first tile. */
  emitConstants(): void;
  /** Before group g. */
  startSums(g: number): void;
  /** Adds the products of a quad to the sums; `isFirst` of its group. */
  multiply(quad: number, isFirst: boolean): void;
  /** Leaves the group's whole sum in one register. */
  finishSum(c: number, g: number, part: number): Vec;
}

export class IntegerCode {
  readonly t: TileCode;
  readonly layout: IntegerLayout;
  readonly record: RecordLayout;
  readonly C: number;
  readonly activation: Vec;
  readonly weights: readonly Vec[];
  /** [limb][2 c + part] */
  readonly sums: readonly (readonly Vec[])[];
  /** Stored quants are not what they stand for. */
  readonly isSigned: boolean;

  constructor(t: TileCode, layout: IntegerLayout, C: number, isFine: boolean) {
    this.t = t;
    this.layout = layout;
    this.record = isFine ? fineRecord : plainRecord;
    this.C = C;
    this.activation = t.take();
    this.weights = t.takeAll(t.isa === 'avx512' ? 4 : 3);
    this.sums = Array.from({ length: isFine ? 2 : 1 }, () => t.takeAll(PARTS * C));
    this.isSigned = layout.centre > 0 || layout.table !== null;
  }

  /** A quad of one limb of a row of x. */
  quadOf(c: number, limb: number, quad: number): Mem {
    return this.t.rowPlace(c, limb * BLOCK + QUAD * quad);
  }

  step(step: number, part: number): Mem {
    return this.t.lanePlace(this.t.registers.block, step * STEP_BYTES, part, QUAD);
  }

  /** Of a quad and its neighbour. */
  nibbles(quad: number, part: number): Mem {
    const { bits } = this.layout;
    invariant(bits !== 8, 'these weights have no nibbles');
    return this.step(nibbleStep(bits, quad >> 1), part);
  }

  /** The sum of group g of the activations, times SUM_FACTOR, in every lane. */
  groupSum(dst: Vec, c: number, g: number, temporary: Vec): void {
    const { a } = this.t;
    const { sum, firstSum } = this.record;
    const isHalf = this.layout.groupSize < BLOCK;
    a.vpbroadcastd(dst, this.t.rowPlace(c, isHalf && g === 0 ? firstSum : sum));
    if (!isHalf || g === 0) return;
    a.vpbroadcastd(temporary, this.t.rowPlace(c, firstSum));
    a.vpsubd(dst, dst, temporary);
  }

  /** One sum of the limbs' sums: 255 times the high one and the low one. */
  joinLimbs(c: number, part: number, temporary: Vec): Vec {
    const { a } = this.t;
    const limbs = this.sums.map((sums) => sums[PARTS * c + part]!);
    const [high, low] = limbs as [Vec, Vec | undefined];
    if (!low) return high;
    a.vpslld(temporary, high, 8);
    a.vpsubd(temporary, temporary, high);
    a.vpaddd(low, low, temporary);
    return low;
  }
}
