// Owns what quantised products are, in plain loops: the specification of the emitted kernels, bit for bit.
import { fma32 } from './float.ref.ts';
import { BLOCK, type PackedFormat } from './product-abi.ts';
import { MIN_ABSMAX } from './quantise.ts';

export interface QuantisedBlock {
  readonly quants: Int32Array;
  readonly scale: number;
  readonly sum: number;
  readonly scaledSum: number;
}

/** x of BLOCK finite elements. */
export function quantiseBlock(x: Float32Array, maxQuant: number): QuantisedBlock {
  const max = x.reduce((most, value) => Math.max(most, Math.abs(value)), Math.fround(MIN_ABSMAX));
  const inverse = Math.fround(maxQuant / max);
  const scale = Math.fround(max / maxQuant);
  const quants = Int32Array.from(x, (value) => roundToEven(Math.fround(value * inverse)));
  const sum = quants.reduce((a, b) => a + b, 0);
  return { quants, scale, sum, scaledSum: Math.fround(Math.fround(sum) * scale) };
}

/** What quantising has left of x: quantised in turn, it doubles the bits. */
export function quantisationRest(x: Float32Array, { quants, scale }: QuantisedBlock): Float32Array {
  return x.map((value, i) => Math.fround(value - Math.fround(quants[i]! * scale)));
}

function roundToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** A block of W as in the file: quants without offset, scale, minimum. */
export interface WeightBlock {
  readonly quants: Int32Array;
  readonly scale: number;
  readonly minimum: number;
}

/** Source: ggml-common.h, block_q4_0, block_q4_1, block_q8_0. */
export function weightBlock(format: PackedFormat, bytes: Uint8Array): WeightBlock {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const scale = view.getFloat16(0, true);
  if (format === 'Q8_0') {
    return { quants: Int32Array.from({ length: BLOCK }, (_, i) => view.getInt8(2 + i)), scale, minimum: 0 };
  }
  const at = format === 'Q4_1' ? 4 : 2;
  const zero = format === 'Q4_1' ? 0 : 8;
  const quants = Int32Array.from({ length: BLOCK }, (_, i) => {
    const byte = view.getUint8(at + (i % 16));
    return (i < 16 ? byte & 15 : byte >> 4) - zero;
  });
  return { quants, scale, minimum: format === 'Q4_1' ? view.getFloat16(2, true) : 0 };
}

/** One output: a row of x by a row of W. */
export function dotRow(format: PackedFormat, x: readonly QuantisedBlock[], w: readonly WeightBlock[]): number {
  let total = 0;
  for (const [b, activations] of x.entries()) {
    const weights = w[b]!;
    const sum = activations.quants.reduce((s, q, i) => s + q * weights.quants[i]!, 0);
    total = fma32(Math.fround(Math.fround(sum) * activations.scale), weights.scale, total);
    if (format === 'Q4_1') total = fma32(weights.minimum, activations.scaledSum, total);
  }
  return total;
}
