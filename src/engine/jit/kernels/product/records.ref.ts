// Owns what quantised activations are, in plain loops: the specification of the kernels that write them, bit for bit.
import { roundHalfToEven } from '../float.ref.ts';
import { BLOCK, FINE_BASE, MIN_ABSMAX, type RecordLayout, recordRowBytes, recordsBytes, SUM_FACTOR } from './abi.ts';

export interface QuantisedBlock {
  readonly quants: Int32Array;
  readonly scale: number;
}

/** x of BLOCK finite elements. */
function quantiseBlock(x: Float32Array, maxQuant: number): QuantisedBlock {
  const max = x.reduce((most, value) => Math.max(most, Math.abs(value)), Math.fround(MIN_ABSMAX));
  const inverse = Math.fround(maxQuant / max);
  return {
    quants: Int32Array.from(x, (value) => roundHalfToEven(Math.fround(value * inverse))),
    scale: Math.fround(max / maxQuant),
  };
}

export const quantiseRow = (x: Float32Array, maxQuant: number): QuantisedBlock[] =>
  Array.from({ length: x.length / BLOCK }, (_, b) => quantiseBlock(x.subarray(b * BLOCK, (b + 1) * BLOCK), maxQuant));

const sumOf = (quants: Int32Array) => quants.reduce((a, b) => a + b, 0);

/** The records of x [M,K], each row times a factor of its own; scales are rounded twice, as the norm does it. */
export function recordsOf(record: RecordLayout, x: Float32Array, K: number, factors?: readonly number[]): Uint8Array {
  const M = x.length / K;
  const bytes = new Uint8Array(recordsBytes(record, M, K));
  const view = new DataView(bytes.buffer);
  for (let m = 0; m < M; m++) {
    for (const [b, { quants, scale }] of quantiseRow(x.subarray(m * K, (m + 1) * K), record.maxQuant).entries()) {
      const scaled = Math.fround(scale * (factors?.[m] ?? 1));
      writeRecord(record, { quants, scale: scaled }, view, m * recordRowBytes(record, K) + b * record.bytes);
    }
  }
  return bytes;
}

function writeRecord(record: RecordLayout, { quants, scale }: QuantisedBlock, view: DataView, at: number): void {
  for (const [i, quant] of quants.entries()) {
    const high = record.low === null ? quant : Math.round(quant / FINE_BASE);
    view.setInt8(at + record.high + i, high);
    if (record.low !== null) view.setInt8(at + record.low + i, quant - FINE_BASE * high);
  }
  view.setFloat32(at + record.scale, scale, true);
  view.setInt32(at + record.sum, SUM_FACTOR * sumOf(quants), true);
  view.setFloat32(at + record.scaledSum, Math.fround(sumOf(quants)) * scale, true);
  view.setInt32(at + record.firstSum, SUM_FACTOR * sumOf(quants.subarray(0, BLOCK / 2)), true);
}
