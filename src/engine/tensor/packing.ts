// Owns how rows of a matrix lie for emitted products, described by plain data from which any thread can make it again.
import { invariant } from '../../common/errors.ts';
import { type PackedFormat, packedBytes, packedLayout, STRIP_ROWS } from '../jit/kernels/product/layout.ts';
import { gatedRows, packRows, type RowPlace } from '../jit/kernels/product/pack.ts';
import type { TensorType } from './dtype.ts';

/** Counts up whenever the bytes that `pack` writes change: what was packed by another version is packed again. */
const PACKING_VERSION = 3;

/** Survives a message to a thread; part of the key under which packed weights are cached. */
export interface PackingSpec {
  readonly format: PackedFormat;
  /** Two matrices of equal size in turn, 16 rows of each, for products that end with act(gate) * up. */
  readonly isGated: boolean;
  readonly version: number;
}

export interface Packing {
  readonly spec: PackingSpec;
  /**
   * Rows that lie together: rows [a, b), both multiples of it, fill bytes [numBytes(a), numBytes(b)) and no others.
   */
  readonly rowsTogether: number;
  /** Bytes of a matrix [numRows, rowElements]; of gated ones both count. */
  numBytes(numRows: number, rowElements: number): number;
  /** Puts whole rows in the file's format at rows `firstRow`, … of the zeroed matrix at `target`. */
  pack(source: Uint8Array, rowElements: number, target: Uint8Array, firstRow: number, place: RowPlace): void;
}

/** How matrices of a format are laid out; null: as they are in the file. */
export type PackingOf = (type: TensorType, isGated: boolean) => Packing | null;

/** As ggml takes matrices: rows below each other, in the file's format. */
export const asInFile: PackingOf = () => null;

/** As emitted products take them. */
export const forProducts: PackingOf = (type, isGated) => {
  const layout = packedLayout(type);
  return layout && packingOf({ format: layout.format, isGated, version: PACKING_VERSION });
};

export function packingOf(spec: PackingSpec): Packing {
  const { format, isGated } = spec;
  const layout = packedLayout(format);
  invariant(layout, `no products take ${format}`);
  return {
    spec,
    rowsTogether: STRIP_ROWS,
    numBytes: (numRows, rowElements) =>
      numRows === 0 ? 0 : packedBytes(layout, isGated ? gatedRows(numRows / 2) : numRows, rowElements),
    pack: (source, rowElements, target, firstRow, place) =>
      packRows(layout, source, rowElements, target, firstRow, place),
  };
}
