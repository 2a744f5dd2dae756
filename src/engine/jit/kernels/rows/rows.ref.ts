// Owns what the row kernels compute, in plain loops: their specification, bit for bit.
import { fma32, foldSum } from '../float.ref.ts';

const { fround } = Math;
const LANES = 16;

/** Sum of `term` over a row, each added with one rounding: (sum, index) → sum. */
function rowSum(numFloats: number, term: (sum: number, i: number) => number): number {
  const sums = Array.from({ length: 4 }, () => new Float32Array(LANES));
  for (let i = 0; i < numFloats; i++) {
    const sum = sums[Math.floor(i / LANES) % 4]!;
    sum[i % LANES] = term(sum[i % LANES]!, i);
  }
  const [s0, s1, s2, s3] = sums as [Float32Array, Float32Array, Float32Array, Float32Array];
  return foldSum(s0.map((value, i) => fround(value + s1[i]!) + fround(s2[i]! + s3[i]!)));
}

function inverseRms(squares: number, numFloats: number, eps: number): number {
  const mean = fround(squares * fround(1 / numFloats));
  return fround(1 / fround(Math.sqrt(fround(mean + fround(eps)))));
}

/** x [D] → x * w, to be multiplied with `factor`. */
export function rmsNorm(x: Float32Array, w: Float32Array, eps: number): { scaled: Float32Array; factor: number } {
  const squares = rowSum(x.length, (sum, i) => fma32(x[i]!, x[i]!, sum));
  return { scaled: x.map((value, i) => value * w[i]!), factor: inverseRms(squares, x.length, eps) };
}

/** x [D] standardised, times w, plus bias. */
export function layerNorm(x: Float32Array, w: Float32Array, bias: Float32Array, eps: number): Float32Array {
  const mean = fround(rowSum(x.length, (sum, i) => sum + x[i]!) * fround(1 / x.length));
  const centred = x.map((value) => value - mean);
  const squares = rowSum(x.length, (sum, i) => fma32(centred[i]!, centred[i]!, sum));
  const factor = inverseRms(squares, x.length, eps);
  return centred.map((value, i) => fround(fround(value * factor) * w[i]!) + bias[i]!);
}

export interface HeadRotation {
  readonly pairs: 'adjacent' | 'halves';
  readonly rotaryDim: number;
  /** [rotaryDim] cosines and sines. */
  readonly rotations: Float32Array;
  readonly norm: { readonly weights: Float32Array; readonly eps: number } | null;
}

/** One head, [K]. */
export function ropeHead(head: Float32Array, { pairs, rotaryDim, rotations, norm }: HeadRotation): Float32Array {
  const normed = norm ? rmsNorm(head, norm.weights, norm.eps) : { scaled: head, factor: 1 };
  const x = normed.scaled.map((value) => value * normed.factor);
  const half = rotaryDim / 2;
  for (let i = 0; i < half; i++) {
    const [first, second] = pairs === 'adjacent' ? [2 * i, 2 * i + 1] : [i, i + half];
    const [a, b] = [x[first]!, x[second]!];
    const [cos, sin] = [rotations[i]!, rotations[half + i]!];
    x[first] = fma32(a, cos, -fround(b * sin));
    x[second] = fma32(b, cos, fround(a * sin));
  }
  return x;
}
