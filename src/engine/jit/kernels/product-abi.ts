// Owns the memory that matrix products work on: packed weights, quantised activations, the node block.
// Legend: M rows of x, N rows of W (columns of the product), K their length.
import { invariant } from '../../../common/errors.ts';
import type { Address } from '../../ffi/koffi.ts';
import type { Isa } from '../cpu-features.ts';

/*
 * y[M,N] = x[M,K] · W[N,K]ᵀ in two ggml custom operations, `quantise` (x → records) and `product` (records → y).
 *
 * W is cut into strips of as many rows as two vector registers have 32-bit lanes. A strip is a stream of blocks, each
 * 32 elements of K of all its rows:
 *
 *   [quants of step 0: part 0, part 1][quants of step 1: …] … [scales F16][minima F16]
 *
 * A part is a register of rows; a lane of it holds the row's `quad` consecutive quants that one instruction
 * multiplies with as many broadcast activations. 4-bit quants of element i and i + 16 share a byte, as in the file.
 */

/** Formats of the files that are packed without loss. */
export const packedFormats = ['Q4_0', 'Q4_1', 'Q8_0'] as const;
export type PackedFormat = (typeof packedFormats)[number];

/** Elements of K that share a scale, in files and in records. */
export const BLOCK = 32;

export interface StripLayout {
  readonly format: PackedFormat;
  readonly isa: Isa;
  /** Rows of a strip: two registers. */
  readonly rows: number;
  /** Rows of a register. */
  readonly lanes: number;
  /** Bytes of a lane in one step. */
  readonly unitBytes: 2 | 4;
  /** Bytes that are flipped in quants: Q8_0 becomes unsigned, with 128 added, where the instruction wants that. */
  readonly flip: 0 | 0x80;
  /** Offsets in a block. */
  readonly scales: number;
  readonly minima: number | null;
  readonly blockBytes: number;
  /** Added to every quant as stored; the product subtracts it with the sum of activations. */
  readonly offset: number;
  readonly record: RecordLayout;
}

/**
 * 32 quantised activations of one row: s8 or s16, then F32 scale, I32 sum of the quants, F32 sum times scale.
 * Records of a tile of rows stand block by block: [tile][K / 32][row of the tile].
 */
export interface RecordLayout {
  readonly element: 's8' | 's16';
  /** Largest magnitude of a quant: all that the element and 32-bit sums of 32 products hold. */
  readonly maxQuant: 127 | 32767;
  readonly scale: number;
  readonly sum: number;
  readonly scaledSum: number;
  readonly bytes: number;
}

function recordLayout(element: 's8' | 's16'): RecordLayout {
  const scale = element === 's8' ? BLOCK : 2 * BLOCK;
  return {
    element,
    maxQuant: element === 's8' ? 127 : 32767,
    scale,
    sum: scale + 4,
    scaledSum: scale + 8,
    bytes: scale + 12,
  };
}

/** Rows of x that are multiplied together: as many as leave registers for the weights. */
export const TILE_ROWS = 6;

export function stripLayout(format: PackedFormat, isa: Isa): StripLayout {
  const lanes = isa === 'avx512' ? 16 : 8;
  const rows = 2 * lanes;
  const scales = rows * (format === 'Q8_0' ? BLOCK : BLOCK / 2);
  const minima = format === 'Q4_1' ? scales + 2 * rows : null;
  // Without VNNI s8 by s8 is exact in 16-bit arithmetic only, which takes pairs instead of quads.
  const isPairs = format === 'Q8_0' && isa === 'avx2';
  return {
    format,
    isa,
    rows,
    lanes,
    unitBytes: isPairs ? 2 : 4,
    flip: format === 'Q8_0' && !isPairs ? 0x80 : 0,
    scales,
    minima,
    blockBytes: scales + 2 * rows * (minima === null ? 1 : 2),
    offset: format === 'Q4_0' ? 8 : format === 'Q8_0' && !isPairs ? 128 : 0,
    record: recordLayout(isPairs ? 's16' : 's8'),
  };
}

const numBlocks = (K: number): number => {
  invariant(K > 0 && K % BLOCK === 0, `rows of ${K} elements are not whole blocks of ${BLOCK}`);
  return K / BLOCK;
};

/** Bytes of a packed matrix [N,K]; the last strip is full. */
export function packedBytes(layout: StripLayout, N: number, K: number): number {
  return Math.ceil(N / layout.rows) * numBlocks(K) * layout.blockBytes;
}

/** Bytes of the records of x [M,K]. */
export const recordBytes = (record: RecordLayout, M: number, K: number): number => M * numBlocks(K) * record.bytes;

/** Byte offsets in a product's node block. Counters stand on cache lines of their own; both are 0 between nodes. */
export const productField = {
  /** u64 address of the packed matrix. */
  weights: 0,
  /** i64 K / 32, bytes of a strip, tiles that are multiplied with a strip before the next strip's turn. */
  numBlocks: 8,
  stripBytes: 16,
  chunkTiles: 24,
  /** u64 next piece of work to claim, and threads done. */
  claimed: 64,
  finished: 128,
} as const;
export const PRODUCT_BLOCK_BYTES = 192;

/** Records of a chunk of rows are to stay in the second-level cache beside a strip. */
const chunkBytes = 192 * 1024;

/** Writes the node block of a product with `weights`, a packed matrix [N,K], at a multiple of 64. */
export function writeProductBlock(
  buffer: ArrayBuffer,
  byteOffset: number,
  layout: StripLayout,
  K: number,
  weights: Address,
): void {
  const fields = new BigUint64Array(buffer, byteOffset, PRODUCT_BLOCK_BYTES / 8).fill(0n);
  const set = (field: number, value: number) => {
    fields[field / 8] = BigInt(value);
  };
  set(productField.weights, weights);
  set(productField.numBlocks, numBlocks(K));
  set(productField.stripBytes, numBlocks(K) * layout.blockBytes);
  set(productField.chunkTiles, Math.max(1, Math.floor(chunkBytes / recordBytes(layout.record, TILE_ROWS, K))));
}
