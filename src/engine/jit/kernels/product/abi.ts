// Owns the layout of quantised activations, which kernels write and matrix products read.
// Legend: M rows of x, K their length.
import { invariant } from '../../../../common/errors.ts';

/*
 * Rows of x become rows of records, one per 32 elements of K:
 *
 *   x ≈ scale * q        [32 q s8][scale F32][sum I32][scaledSum F32][firstSum I32]
 *
 * A fine record keeps 15 bits in two signed bytes, q = 255 * high + low, both within ±127:
 *
 *   [32 high s8][32 low s8][scale F32][sum I32][scaledSum F32][firstSum I32]
 *
 * scale is the block's largest magnitude / maxQuant (at least MIN_ABSMAX / maxQuant); q is x * (maxQuant / largest
 * magnitude) rounded to nearest, ties to even. Sums are of q, and stored times SUM_FACTOR: products start with them,
 * which takes the 128 out again that is added to signed weights to make them unsigned.
 *
 * The record of row m and block b stands at m * rowBytes + b * bytes. The layout is the same for all instruction sets
 * and all formats of weights: one quantised x serves them all.
 */

/** Elements of K that share a scale. */
export const BLOCK = 32;
/** Stored sums are the sums of quants times this. */
export const SUM_FACTOR = -128;
/** A fine quant is FINE_BASE * high + low: high = q / FINE_BASE rounded to nearest (ties cannot occur). */
export const FINE_BASE = 255;
/** Smaller maxima count as this, so that blocks of zeros have a finite inverse scale. */
export const MIN_ABSMAX = 1e-30;

export interface RecordLayout {
  readonly isFine: boolean;
  /** Largest magnitude of q. */
  readonly maxQuant: number;
  /** Byte offset of 32 s8: the quants; of a fine record the high parts. */
  readonly high: number;
  /** Byte offset of 32 s8, the low parts; null unless fine. */
  readonly low: number | null;
  /** F32. */
  readonly scale: number;
  /** I32 sum of all q times SUM_FACTOR. */
  readonly sum: number;
  /** F32(sum of all q) * scale, without SUM_FACTOR, rounded to F32. */
  readonly scaledSum: number;
  /** I32 sum of the first 16 q times SUM_FACTOR. */
  readonly firstSum: number;
  readonly bytes: number;
}

function layOut(isFine: boolean): RecordLayout {
  const scale = isFine ? 2 * BLOCK : BLOCK;
  return {
    isFine,
    maxQuant: isFine ? FINE_BASE * 127 + 127 : 127,
    high: 0,
    low: isFine ? BLOCK : null,
    scale,
    sum: scale + 4,
    scaledSum: scale + 8,
    firstSum: scale + 12,
    bytes: scale + 16,
  };
}

export const plainRecord = layOut(false);
export const fineRecord = layOut(true);

const LINE_BYTES = 64;

/** Distance of rows of records: an odd number of cache lines, so that the rows of a tile share no sets of the L1 cache. */
export function recordRowBytes(record: RecordLayout, K: number): number {
  invariant(K > 0 && K % BLOCK === 0, `rows of ${K} elements are not whole blocks of ${BLOCK}`);
  const lines = Math.ceil(((K / BLOCK) * record.bytes) / LINE_BYTES);
  return (lines | 1) * LINE_BYTES;
}

/** Bytes of the records of M rows. */
export const recordsBytes = (record: RecordLayout, M: number, K: number): number => M * recordRowBytes(record, K);
