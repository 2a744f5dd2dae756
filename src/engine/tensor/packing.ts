// Owns how rows of a matrix lie for emitted products, described by plain data from which any thread can make it again.
import type { Isa } from '../jit/cpu-features.ts';
import { type PackedFormat, packedBytes, stripLayout } from '../jit/kernels/product-abi.ts';
import { packRows } from '../jit/kernels/product-pack.ts';

/** Counts up whenever the bytes that `pack` writes change: what was packed by another version is packed again. */
const PACKING_VERSION = 1;

/** Survives a message to a thread; part of the key under which packed weights are cached. */
export interface PackingSpec {
  readonly format: PackedFormat;
  readonly isa: Isa;
  readonly version: number;
}

export interface Packing {
  readonly spec: PackingSpec;
  /**
   * Rows that lie together: rows [a, b), both multiples of it, fill bytes [numBytes(a), numBytes(b)) and no others.
   */
  readonly rowsTogether: number;
  /** Bytes of a matrix [numRows, rowElements]. */
  numBytes(numRows: number, rowElements: number): number;
  /** Puts whole rows in the file's format at rows `firstRow`, … of the zeroed matrix at `target`. */
  pack(source: Uint8Array, rowElements: number, target: Uint8Array, firstRow: number): void;
}

export const packingSpec = (format: PackedFormat, isa: Isa): PackingSpec => ({ format, isa, version: PACKING_VERSION });

export function packingOf(spec: PackingSpec): Packing {
  const layout = stripLayout(spec.format, spec.isa);
  return {
    spec,
    rowsTogether: layout.rows,
    numBytes: (numRows, rowElements) => (numRows === 0 ? 0 : packedBytes(layout, numRows, rowElements)),
    pack: (source, rowElements, target, firstRow) => packRows(layout, source, rowElements, target, firstRow),
  };
}
