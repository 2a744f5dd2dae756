// Owns the engine's view of a request's sampling parameters (already validated and normalised).

/** One edit to a raw logit: `logit > 0 ? logit * scalePositive : logit * scaleNegative`, then `+ add`. */
export interface LogitEdits {
  /** [E] token ids, ascending, unique. */
  readonly tokenIds: Int32Array;
  readonly scalePositive: Float32Array;
  readonly scaleNegative: Float32Array;
  /** May be -Infinity (forbidden token). */
  readonly add: Float32Array;
}

export interface SamplingParams {
  /** 0: greedy. */
  readonly temperature: number;
  /** 0: off. */
  readonly topK: number;
  /** 1: off. */
  readonly topP: number;
  /** 0: off. */
  readonly minP: number;
  /** 1: off. */
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  /** Ascending by token id; empty: none. */
  readonly logitBias: readonly { readonly tokenId: number; readonly bias: number }[];
  readonly minTokens: number;
  readonly maxTokens: number;
  readonly ignoreEos: boolean;
  /** End the sequence when sampled; the model's own stop ids come on top unless ignoreEos. */
  readonly stopTokenIds: readonly number[];
  /** -1: none; otherwise the chosen token's log-probability and this many alternatives (at most 20). */
  readonly numLogprobs: number;
  /** -1: none; otherwise as above for prompt positions. */
  readonly numPromptLogprobs: number;
}

/** The likeliest token each time, to the last: what measurements ask for. */
export const greedyParams: Omit<SamplingParams, 'maxTokens'> = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: [],
  minTokens: 0,
  ignoreEos: true,
  stopTokenIds: [],
  numLogprobs: -1,
  numPromptLogprobs: -1,
};

/** What the sampler needs for one output row of one step: a value, no references to live state. */
export interface SampleRow {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  /** 64-bit seed of the sequence. */
  readonly seed: bigint;
  /** Absolute position of the token being sampled: with the seed and the token id it keys the noise. */
  readonly position: number;
  readonly edits: LogitEdits | null;
  readonly numLogprobs: number;
}
