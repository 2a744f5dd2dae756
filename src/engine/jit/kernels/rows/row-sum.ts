// Owns sums over a row of floats, in the order that every kernel and twin of this folder adds in.
import type { Assembler } from '../../asm/assembler.ts';
import { type Mem, mem } from '../../asm/operands.ts';
import type { Gpr, Vec } from '../../asm/registers.ts';
import { xmm } from '../../asm/registers.ts';
import type { Lanes, Wide } from '../lanes.ts';
import { emitEach16 } from './row-op.ts';

/** Four sums of 16 lanes, so that additions need not wait for each other: vector c of 16 floats goes to sum c % 4. */
export type Sums = readonly [Wide, Wide, Wide, Wide];

export function takeSums(lanes: Lanes): Sums {
  const sums = [lanes.take(), lanes.take(), lanes.take(), lanes.take()] as const;
  for (const sum of sums) lanes.zero(sum);
  return sums;
}

/** Adds 0 + 1, 2 + 3, both; then lanes as `Lanes.fold`. Releases the sums; the result is lane 0 of one of them. */
export function foldSums(lanes: Lanes, [s0, s1, s2, s3]: Sums): Vec {
  lanes.op('vaddps', s0, s0, s1);
  lanes.op('vaddps', s2, s2, s3);
  lanes.op('vaddps', s0, s0, s2);
  const sum = lanes.fold('vaddps', s0, s1);
  lanes.release(s0, s1, s2, s3);
  return sum;
}

/** The sum over a row; `term` adds one vector's terms. `pointer` moves. */
export function emitRowSum(
  a: Assembler,
  lanes: Lanes,
  numFloats: number,
  { pointer, count }: { readonly pointer: Gpr; readonly count: Gpr },
  term: (sum: Wide, place: Mem) => void,
): Vec {
  const sums = takeSums(lanes);
  emitEach16(a, numFloats, count, [pointer], (at, turn) => term(sums[turn] as Wide, mem(pointer, 4 * at)));
  return foldSums(lanes, sums);
}

/** x: a sum of squares → 1 / sqrt(x / numFloats + eps), in lane 0. */
export function emitInverseRms(a: Assembler, x: Vec, numFloats: number, eps: number, temporary: Vec): void {
  a.vmulss(x, x, a.f32(1 / numFloats));
  a.vaddss(x, x, a.f32(eps));
  a.vsqrtss(x, x, x);
  a.vmovss(xmm(temporary.id), a.f32(1));
  a.vdivss(x, xmm(temporary.id), x);
}
