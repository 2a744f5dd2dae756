// Owns what products with packed matrices are, in plain loops: the specification of the emitted kernels, bit for bit.
import { fma32 } from '../float.ref.ts';
import { BLOCK } from './abi.ts';
import type { RowGroups } from './unpack.ref.ts';
import type { QuantisedBlock } from './records.ref.ts';

/** One output: a quantised row of x by a row of integers. */
export function dotGroups(
  x: readonly QuantisedBlock[],
  { quants, scales, minima }: RowGroups,
  hasMinima: boolean,
): number {
  const groupSize = quants.length / scales.length;
  let total = 0;
  for (const [group, scale] of scales.entries()) {
    const first = group * groupSize;
    const activations = x[Math.floor(first / BLOCK)]!;
    let sum = 0;
    let activationSum = 0;
    for (let i = 0; i < groupSize; i++) {
      const quant = activations.quants[(first % BLOCK) + i]!;
      sum += quant * quants[first + i]!;
      activationSum += quant;
    }
    total = fma32(Math.fround(Math.fround(sum) * activations.scale), scale, total);
    if (hasMinima) total = fma32(minima[group]!, Math.fround(Math.fround(activationSum) * activations.scale), total);
  }
  return total;
}

/** One output: a row of x by a row of floats. */
export function dotFloats(x: Float32Array, w: Float32Array): number {
  let total = 0;
  for (const [k, weight] of w.entries()) total = fma32(weight, x[k]!, total);
  return total;
}
