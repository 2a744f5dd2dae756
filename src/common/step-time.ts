// Owns what a step (forward pass) is predicted to cost: the model that engines fit and that routing predicts with. Pure.

/** What decides how long a step takes. */
export interface StepShape {
  /** Tokens computed: prompt tokens of prefills and one per decoding sequence. */
  readonly numTokens: number;
  /** Sequences in the step. */
  readonly numSeqs: number;
  /** Sum over the sequences of the KV positions that they read. */
  readonly contextTokens: number;
  /** Sum over the tokens of the KV positions that they attend to: for decoding sequences the same as above. */
  readonly attendedPairs: number;
}

/** Milliseconds of a step: `constantMs` and a price per unit of each part of its shape. */
export interface StepTimeModel {
  readonly constantMs: number;
  readonly tokenMs: number;
  readonly seqMs: number;
  readonly contextMs: number;
  readonly pairMs: number;
}

export const noStep: StepShape = { numTokens: 0, numSeqs: 0, contextTokens: 0, attendedPairs: 0 };

export function predictStepMs(model: StepTimeModel, shape: StepShape): number {
  return (
    model.constantMs +
    model.tokenMs * shape.numTokens +
    model.seqMs * shape.numSeqs +
    model.contextMs * shape.contextTokens +
    model.pairMs * shape.attendedPairs
  );
}

/** A row of `numTokens` consecutive positions that begins at `start`. */
export function addRow(shape: StepShape, start: number, numTokens: number): StepShape {
  return {
    numTokens: shape.numTokens + numTokens,
    numSeqs: shape.numSeqs + 1,
    contextTokens: shape.contextTokens + start + numTokens,
    attendedPairs: shape.attendedPairs + attendedPairs(start, numTokens),
  };
}

/** Position p attends to p + 1 positions. */
function attendedPairs(start: number, numTokens: number): number {
  return numTokens * start + (numTokens * (numTokens + 1)) / 2;
}

/**
 * Milliseconds to compute positions [start, end) of one prompt, alone, in chunks of `chunkTokens`: about quadratic in
 * the length.
 */
export function predictPrefillMs(model: StepTimeModel, start: number, end: number, chunkTokens: number): number {
  const numTokens = Math.max(0, end - start);
  const numChunks = Math.ceil(numTokens / chunkTokens);
  // Chunk i ends at start + (i + 1) * chunk, the last one at `end`.
  const numFull = Math.floor(numTokens / chunkTokens);
  const readByFull = numFull * start + (chunkTokens * numFull * (numFull + 1)) / 2;
  const contextTokens = readByFull + (numChunks > numFull ? end : 0);
  return (
    numChunks * (model.constantMs + model.seqMs) +
    model.tokenMs * numTokens +
    model.contextMs * contextTokens +
    model.pairMs * attendedPairs(start, numTokens)
  );
}

export function scaleModel(model: StepTimeModel, factor: number): StepTimeModel {
  return {
    constantMs: model.constantMs * factor,
    tokenMs: model.tokenMs * factor,
    seqMs: model.seqMs * factor,
    contextMs: model.contextMs * factor,
    pairMs: model.pairMs * factor,
  };
}
