// Owns the table of element formats that weight files hold: block sizes and their number in GGUF files.

interface DTypeRow {
  /** Elements per block; 1 for plain formats. The innermost dimension is a multiple of it. */
  readonly blockElements: number;
  readonly blockBytes: number;
  /** ggml's type number; undefined for formats that only safetensors has. */
  readonly ggmlType: number | undefined;
}

const row = (blockElements: number, blockBytes: number, ggmlType?: number): DTypeRow => ({
  blockElements,
  blockBytes,
  ggmlType,
});

/** Source: ggml-common.h (block structs), ggml.h (type numbers), the safetensors format description. */
export const dtypes = {
  F64: row(1, 8, 28),
  F32: row(1, 4, 0),
  F16: row(1, 2, 1),
  BF16: row(1, 2, 30),
  F8_E4M3: row(1, 1),
  F8_E5M2: row(1, 1),
  I64: row(1, 8, 27),
  I32: row(1, 4, 26),
  I16: row(1, 2, 25),
  I8: row(1, 1, 24),
  U64: row(1, 8),
  U32: row(1, 4),
  U16: row(1, 2),
  U8: row(1, 1),
  BOOL: row(1, 1),
  Q8_0: row(32, 34, 8),
  Q4_0: row(32, 18, 2),
  Q4_1: row(32, 20, 3),
  Q5_0: row(32, 22, 6),
  Q5_1: row(32, 24, 7),
  Q2_K: row(256, 84, 10),
  Q3_K: row(256, 110, 11),
  Q4_K: row(256, 144, 12),
  Q5_K: row(256, 176, 13),
  Q6_K: row(256, 210, 14),
  IQ4_NL: row(32, 18, 20),
  MXFP4: row(32, 17, 39),
} as const satisfies Record<string, DTypeRow>;

export type DType = keyof typeof dtypes;

/** Bytes of `numElements` elements, a multiple of the format's block. */
export function bytesOf(dtype: DType, numElements: number): number {
  const { blockElements, blockBytes } = dtypes[dtype];
  return (numElements / blockElements) * blockBytes;
}
