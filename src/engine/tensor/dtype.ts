// Owns the element formats that ggml computes with: their numbers and block sizes there.

const row = (ggmlType: number, blockElements: number, blockBytes: number) => ({ ggmlType, blockElements, blockBytes });

/** Source: ggml.h (enum ggml_type), ggml-common.h (block structs). A test compares it with the library. */
export const tensorTypes = {
  F32: row(0, 1, 4),
  F16: row(1, 1, 2),
  BF16: row(30, 1, 2),
  I32: row(26, 1, 4),
  I8: row(24, 1, 1),
  Q8_0: row(8, 32, 34),
  Q4_0: row(2, 32, 18),
  Q4_1: row(3, 32, 20),
  Q5_0: row(6, 32, 22),
  Q5_1: row(7, 32, 24),
  Q2_K: row(10, 256, 84),
  Q3_K: row(11, 256, 110),
  Q4_K: row(12, 256, 144),
  Q5_K: row(13, 256, 176),
  Q6_K: row(14, 256, 210),
  IQ4_NL: row(20, 32, 18),
  MXFP4: row(39, 32, 17),
} as const;

export type TensorType = keyof typeof tensorTypes;

/** Bytes of `elements` in a row, a multiple of the format's block. */
export function bytesOf(type: TensorType, elements: number): number {
  const { blockElements, blockBytes } = tensorTypes[type];
  return (elements / blockElements) * blockBytes;
}

/** Formats that are not blocks of scaled integers. */
export function isFloatType(type: TensorType): boolean {
  return type === 'F32' || type === 'F16' || type === 'BF16';
}

/** Formats of which ggml multiplies a lone row by other code than several, with other rounding (see graph.test.ts). */
export function differsAlone(type: TensorType): boolean {
  return isFloatType(type) || type === 'IQ4_NL';
}
