// Owns sums over a row of floats, in the order that every kernel and twin of this folder adds in.
import type { Assembler } from '../../asm/assembler.ts';
import { type Mem, mem } from '../../asm/operands.ts';
import type { Gpr, Vec } from '../../asm/registers.ts';
import { xmm } from '../../asm/registers.ts';
import type { Lanes, Wide } from '../lanes.ts';
import { emitEach16 } from './row-op.ts';

/**
 * Vector c of 16 floats goes to sum c % 4 of four sums of 16 lanes, so that additions need not wait for each other;
 * then sums 0 + 1, 2 + 3, both; then lanes as `Lanes.fold`. `term` adds one vector's terms. Leaves the sum in lane 0 of
 * the xmm register returned, whose lanes are `keep`'s to use until the next take. `pointer` moves.
 */
export function emitRowSum(
  a: Assembler,
  lanes: Lanes,
  numFloats: number,
  { pointer, count }: { readonly pointer: Gpr; readonly count: Gpr },
  term: (sum: Wide, place: Mem) => void,
): Vec {
  const sums = Array.from({ length: 4 }, () => lanes.take()) as [Wide, Wide, Wide, Wide];
  for (const sum of sums) lanes.zero(sum);
  emitEach16(a, numFloats, count, [pointer], (at, turn) => term(sums[turn] as Wide, mem(pointer, 4 * at)));
  const [s0, s1, s2, s3] = sums;
  lanes.op('vaddps', s0, s0, s1);
  lanes.op('vaddps', s2, s2, s3);
  lanes.op('vaddps', s0, s0, s2);
  const sum = lanes.fold('vaddps', s0, s1);
  lanes.release(...sums);
  return sum;
}

/** x: a sum of squares → 1 / sqrt(x / numFloats + eps), in lane 0. */
export function emitInverseRms(a: Assembler, x: Vec, numFloats: number, eps: number, temporary: Vec): void {
  a.vmulss(x, x, a.f32(1 / numFloats));
  a.vaddss(x, x, a.f32(eps));
  a.vsqrtss(x, x, x);
  a.vmovss(xmm(temporary.id), a.f32(1));
  a.vdivss(x, xmm(temporary.id), x);
}
