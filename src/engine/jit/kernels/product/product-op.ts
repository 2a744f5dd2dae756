// Owns the op block of a product: what a kernel is emitted for, and what it reads.
// Legend: M rows of x, N columns of the product (rows of W), K their length.
import { invariant } from '../../../../common/errors.ts';
import type { Address } from '../../../ffi/koffi.ts';
import type { Isa } from '../../cpu-features.ts';
import { OP_FIELDS, type OpBlock } from '../op.ts';
import { fineRecord, plainRecord, recordRowBytes } from './abi.ts';
import type { Gate } from './gate.ts';
import { numBlocksOf, type PackedLayout, stripBytes } from './layout.ts';
import { tileRows } from './registers.ts';
import { outColumns } from './store.ts';

/** What is fixed when a product is emitted. */
export interface ProductKind {
  readonly layout: PackedLayout;
  readonly isa: Isa;
  /** Activations are fine records; integer formats only. */
  readonly isFine: boolean;
  /** Outputs are act(gate) * up of a matrix packed from two (`packedRow`); null: plain ones. */
  readonly gate: Gate | null;
}

/** 8 bytes each. */
const field = (index: number): number => OP_FIELDS + 8 * index;
export const productField = {
  weights: field(0),
  x: field(1),
  xStride: field(2),
  out: field(3),
  outStride: field(4),
  /** Address of F32 [N], or 0. */
  bias: field(5),
  /** 1: outputs are added to what is there. */
  adds: field(6),
  numColumns: field(7),
  numStrips: field(8),
  /** What the inner loop counts: K / 32 blocks; K elements of float formats. */
  length: field(9),
  stripBytes: field(10),
  /** Rows of x whose tiles take turns with one strip, at most; whole tiles. */
  maxChunkRows: field(11),
  /** Estimates: of a strip, and of one of its rows by one row of x. */
  stripCycles: field(12),
  rowCycles: field(13),
  /** Of a piece, at least. */
  pieceCycles: field(14),
} as const;
/** Bytes of a product's op block. */
export const PRODUCT_OP_BYTES = 256;

/** Rows of x of a chunk are to stay in the second-level cache beside a strip. */
const CHUNK_BYTES = 384 * 1024;
const rowKind = ({ layout, isFine }: ProductKind) => (layout.kind === 'float' ? 'float' : isFine ? 'fine' : 'plain');
export const tileRowsOf = (kind: ProductKind): number => tileRows(kind.isa, rowKind(kind));

export interface ProductOptions {
  /** Columns of the output. */
  readonly N: number;
  readonly K: number;
  /** The packed matrix: N rows, or `gatedRows(N)`. */
  readonly weights: Address;
  /** Records (`recordRowBytes` apart), or rows of floats `xRowBytes` apart for float formats. */
  readonly x: Address;
  readonly xRowBytes?: number;
  /** F32 rows, `outRowBytes` apart. */
  readonly out: Address;
  readonly outRowBytes: number;
  /** F32 [N], or null. Not with a gate. */
  readonly bias: Address | null;
  readonly mode: 'store' | 'add';
}

/** Writes the op block of a product, PRODUCT_OP_BYTES; the caller sets `opField.rows`. */
export function writeProductOp(block: OpBlock, kind: ProductKind, options: ProductOptions): void {
  const { N, K, weights, x, out, outRowBytes, bias, mode } = options;
  const { layout, isFine, gate } = kind;
  invariant(!(gate && bias), 'a gated product has no bias');
  invariant(options.xRowBytes !== undefined || layout.kind === 'integer', 'rows of floats have a distance');
  const xRowBytes = options.xRowBytes ?? recordRowBytes(isFine ? fineRecord : plainRecord, K);
  const C = tileRowsOf(kind);
  const length = layout.kind === 'float' ? K : numBlocksOf(layout, K);
  const bytes = stripBytes(layout, K);
  block.set(productField.weights, weights);
  block.set(productField.x, x);
  block.set(productField.xStride, xRowBytes);
  block.set(productField.out, out);
  block.set(productField.outStride, outRowBytes);
  block.set(productField.bias, bias ?? 0);
  block.set(productField.adds, mode === 'add' ? 1 : 0);
  block.set(productField.numColumns, N);
  block.set(productField.numStrips, Math.ceil(N / outColumns(gate)));
  block.set(productField.length, length);
  block.set(productField.stripBytes, bytes);
  block.set(productField.maxChunkRows, C * Math.max(1, Math.floor(CHUNK_BYTES / (C * xRowBytes))));
  const stripCycles = Math.ceil(bytes / bytesPerCycle);
  block.set(productField.stripCycles, stripCycles);
  block.set(productField.pieceCycles, Math.max(PIECE_CYCLES, STRIPS_READ * stripCycles));
  block.set(productField.rowCycles, length * rowCycles[kind.isa][rowKind(kind)]);
}

/** Claiming a piece costs 0.1 us: this is some 2 us. */
const PIECE_CYCLES = 8192;
/** Nothing brings a piece's first strip closer: pieces last as long as reading so many. */
const STRIPS_READ = 32;
/** About what a core gets from memory. */
const bytesPerCycle = 6;
/** Per block (float formats: element), strip and row of x. */
const rowCycles = { avx512: { plain: 20, fine: 38, float: 2 }, avx2: { plain: 100, fine: 200, float: 4 } } as const;
