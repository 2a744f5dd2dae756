// Owns the memory layout between the engine and the emitted sampler: parameters, rows, edits, scratch and results. Bytes.
import { blockSize } from './sampler-math.ts';

/** The block that the node's user data points to. It may be rewritten between steps. */
export const paramField = {
  /** u64: address of the rows. */
  rows: 0,
  /** u64: address of the scratch memory, and u64: bytes of it per thread. */
  scratch: 8,
  scratchStride: 16,
  /** i32: rows to handle; at most the outer dimension of logits and results. */
  numOutputs: 24,
  /** i32: ids that have a token; at most the inner dimension of the logits. */
  numIds: 28,
} as const;
export const paramBytes = 64;

/** One record per output. */
export const rowField = {
  /** i32: a value of `rowMode`. */
  mode: 0,
  /** i32: the token to report on (mode target). */
  targetId: 4,
  /** i32: not 0: fill in log-probability, log-sum-exp, rank and block maxima. */
  wantsStats: 8,
  /** i32: not 0: arg-max without noise. */
  isGreedy: 12,
  /** u64: address of the edits, i32: how many. */
  edits: 16,
  numEdits: 24,
  /** i32: 0 is off; below numIds. */
  topK: 28,
  /** f32 > 0. */
  inverseTemperature: 32,
  /** f32: ln(minP) or -Infinity. */
  minPOffset: 36,
  /** f32 in (0, 1]; 1 is off. */
  topP: 40,
  /** i32 each: the words that key the noise. */
  key0: 44,
  key1: 48,
} as const;
export const rowBytes = 64;
export const rowMode = { skip: 0, sample: 1, target: 2 } as const;

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

/** Byte offsets of one thread's scratch: scaled logits, maxima of chunks of 16, candidates and their weights. */
export function scratchLayout(
  vocabSize: number,
): Readonly<Record<'scaled' | 'maxima' | 'candidates' | 'weights' | 'numBytes', number>> {
  const chunks = Math.ceil(vocabSize / 16);
  const rowOfChunks = chunks * 64;
  const maxima = rowOfChunks;
  const candidates = maxima + roundUp(chunks, 16) * 4;
  const weights = candidates + rowOfChunks;
  return { scaled: 0, maxima, candidates, weights, numBytes: roundUp(weights + rowOfChunks, 4096) };
}
