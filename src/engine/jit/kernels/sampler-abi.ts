// Owns the memory layout between the engine and the emitted sampler: rows, edits, scratch and results. Bytes.
import { blockSize } from './sampler-math.ts';

/*
 *   cell (8 bytes, named by the op) ─► sample block: header, rows, edits
 *
 * A sample block holds no addresses of itself: it may be written anywhere and copied to where the cell points, and a second
 * one may be written while the first is read.
 */

/** Header of a sample block. */
export const headerField = {
  /** u64: address of the scratch memory (a multiple of 64), and i64: bytes of it per thread. */
  scratch: 0,
  scratchStride: 8,
  /** i32: ids that have a token, at least 1; at most the inner dimension of the logits. */
  numIds: 20,
} as const;
export const headerBytes = 64;

/** One per output, behind the header. */
export const rowField = {
  /** i32: a value of `rowMode`. */
  mode: 0,
  /** i32: the token to report on (mode `target`). */
  targetId: 4,
  /** i32: not 0: fill in log-probability, log-sum-exp, rank and block maxima. */
  wantsStats: 8,
  /** i32 */
  numEdits: 12,
  /** i64 from the block's start. */
  edits: 16,
  /** f32 > 0. */
  inverseTemperature: 24,
  /** f32: ln(minP) or -Infinity. */
  minPOffset: 28,
  /** f32 in (0, 1]; 1 is off. */
  topP: 32,
  /** i32: 0 is off; below numIds. */
  topK: 36,
  /** i32 each: the words that key the noise. */
  key0: 40,
  key1: 44,
} as const;
export const rowBytes = 64;
/** `argMax` is of raw logits; the two below it read the edits and the temperature (1 for `editedArgMax`). */
export const rowMode = { skip: 0, target: 1, argMax: 2, editedArgMax: 3, draw: 4 } as const;

/** One edit. */
export const editField = { tokenId: 0, scalePositive: 4, scaleNegative: 8, add: 12 } as const;
export const editBytes = 16;

/** One result per output; block maxima (f32, one per 512 ids) follow. Without `wantsStats` only the token and flags count. */
export const resultField = {
  tokenId: 0,
  /** f32 each: of the raw logits. */
  logprob: 4,
  logSumExp: 8,
  /** i32: 1 + the number of strictly greater logits. */
  rank: 12,
  /** i32: bits of `resultFlag`. */
  flags: 16,
  blockMaxima: 64,
} as const;
export const resultFlag = {
  /** A logit was NaN. */
  sawNaN: 1,
  /** No id was left to choose from; the token is 0. */
  noCandidate: 2,
} as const;

const roundUp = (value: number, unit: number) => Math.ceil(value / unit) * unit;

/** Elements (4 bytes each) of one result row for rows of `vocabSize` logits. */
export const resultElements = (vocabSize: number): number => 16 + roundUp(Math.ceil(vocabSize / blockSize), 16);

/**
 * Bytes of scratch per thread (aligned to 64): scaled logits, the maxima of their chunks of 16, and copies of those chunks
 * that can still hold kept tokens, with their weights.
 */
export function scratchBytes(vocabSize: number): number {
  const chunks = Math.ceil(vocabSize / 16);
  return roundUp(3 * chunks * 64 + roundUp(chunks, 16) * 4, 4096);
}
