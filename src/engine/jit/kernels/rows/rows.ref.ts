// Owns what the row kernels compute, in plain loops: their specification, bit for bit.
import { fma32, foldSum, roundHalfToEven } from '../float.ref.ts';
import { BLOCK, FINE_BASE, MIN_ABSMAX, type RecordLayout, recordRowBytes, SUM_FACTOR } from '../product/abi.ts';
import { type Activation, activationNumbers } from './activation.ts';

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

/** The records of one row of finite floats times `factor`, without what pads them. */
export function recordRow(x: Float32Array, layout: RecordLayout, factor = 1): Uint8Array {
  const bytes = new Uint8Array((x.length / BLOCK) * layout.bytes);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < x.length / BLOCK; block++) {
    const values = x.subarray(block * BLOCK, (block + 1) * BLOCK);
    const max = values.reduce((most, value) => Math.max(most, Math.abs(value)), fround(MIN_ABSMAX));
    const inverse = fround(layout.maxQuant / max);
    const scale = fround(fround(max / layout.maxQuant) * factor);
    const quants = [...values].map((value) => roundHalfToEven(fround(value * inverse)));
    const at = block * layout.bytes;
    for (const [i, q] of quants.entries()) {
      const high = layout.isFine ? Math.round(q / FINE_BASE) : q;
      view.setInt8(at + layout.high + i, high);
      if (layout.low !== null) view.setInt8(at + layout.low + i, q - FINE_BASE * high);
    }
    const sumOf = (part: readonly number[]) => part.reduce((a, b) => a + b, 0);
    const sum = sumOf(quants);
    view.setFloat32(at + layout.scale, scale, true);
    view.setInt32(at + layout.sum, sum * SUM_FACTOR, true);
    view.setFloat32(at + layout.scaledSum, fround(fround(sum) * scale), true);
    view.setInt32(at + layout.firstSum, sumOf(quants.slice(0, BLOCK / 2)) * SUM_FACTOR, true);
  }
  return bytes;
}

/** Rows of records in their places; what pads them is 0. */
export function recordRows(rows: readonly Uint8Array[], layout: RecordLayout, K: number): Uint8Array {
  const rowBytes = recordRowBytes(layout, K);
  const all = new Uint8Array(rows.length * rowBytes);
  for (const [i, row] of rows.entries()) all.set(row, i * rowBytes);
  return all;
}

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

export function activate(value: number, activation: Activation): number {
  const { polynomial, log2e, ln2High, ln2Low, mostT, leastX, geluLinear, geluCubic } = activationNumbers;
  const x = Math.max(leastX[activation], value);
  const inner = activation === 'silu' ? x : fround(x * fma32(fround(x * x), geluCubic, geluLinear));
  let t = Math.min(mostT, inner);
  if (Number.isNaN(t)) return t;
  const n = roundHalfToEven(fround(t * fround(-log2e)));
  t = fma32(n, ln2High, t);
  t = fma32(n, fround(ln2Low), t);
  const [highest, ...rest] = polynomial;
  let power = fround(highest);
  for (const coefficient of rest) power = fma32(power, t, fround(coefficient));
  float[0] = power;
  bits[0] = bits[0]! + (n << 23);
  return fround(x / fround(float[0]! + 1));
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
