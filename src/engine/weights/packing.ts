// Owns the seam between loading weights and the kernels that want them laid out in another way than files.
import type { TensorType } from '../tensor/dtype.ts';

/** How rows of one format are laid out for emitted products. */
export interface Packing {
  /** Bytes of a matrix [numRows, rowElements]. */
  numBytes(numRows: number, rowElements: number): number;
  /** Puts whole rows in the file's format at rows `firstRow`, … of the zeroed matrix at `target`. */
  pack(source: Uint8Array, rowElements: number, target: Uint8Array, firstRow: number): void;
}

/** null: matrices of the format stay as they are in the file. */
export type PackingOf = (type: TensorType) => Packing | null;

/** As ggml takes matrices: rows below each other, in the file's format. */
export const asInFile: PackingOf = () => null;
