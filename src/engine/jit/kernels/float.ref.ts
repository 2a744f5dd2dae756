// Owns float arithmetic with the roundings of the machine, for the scalar twins of kernels.

const double = new Float64Array(1);
/** Its bits, lower half first. */
const words = new Uint32Array(double.buffer);

/**
 * a * b + c with one rounding to float, for float arguments. The product is exact as a double; the sum is rounded to
 * odd, so that the second rounding cannot meet a false tie (Boldo and Melquiond, "When double rounding is odd").
 */
export function fma32(a: number, b: number, c: number): number {
  const product = a * b;
  const sum = product + c;
  const shadow = sum - product;
  const error = product - (sum - shadow) + (c - shadow);
  if (error === 0 || !Number.isFinite(error)) return Math.fround(sum);
  double[0] = sum;
  const low = words[0]!;
  if ((low & 1) === 0) {
    // The odd neighbour on the side of the exact sum: one more or one less in magnitude.
    if (error > 0 === sum > 0) words[0] = low + 1;
    else {
      words[0] = low - 1;
      if (low === 0) words[1] = words[1]! - 1;
    }
  }
  return Math.fround(double[0]);
}

const half = new Float16Array(1);

/** The nearest number of 2 bytes, ties to even. */
export function toHalf(value: number): number {
  half[0] = value;
  return half[0];
}

/** Sum of 16 lanes in the order of the kernels: i with i + 8, then i + 4, i + 2, i + 1. */
export function foldSum(lanes: Float32Array): number {
  const values = Float32Array.from(lanes);
  for (let width = 8; width >= 1; width /= 2) {
    for (let i = 0; i < width; i++) values[i] = values[i]! + values[i + width]!;
  }
  return values[0]!;
}

/** The nearest integer, ties to even. */
export function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}
