// Owns what has come of one choice of a request, over all instances that computed it.
import type { TokenLogprob } from '../engine-client.ts';

/** What came of one choice so far. */
export interface ChoiceState {
  /** Generated tokens, over all attempts. */
  tokens: Int32Array;
  numTokens: number;
  /** Log-probabilities of prompt positions that the client has. */
  numPromptLogprobs: number;
  /** Of those, how many the present attempt will deliver once more. */
  numToSkip: number;
  /** Facts that are told once. */
  hasBegun: boolean;
  /** The client wants no more of it (a stop string). */
  isClosed: boolean;
  isFinished: boolean;
}

export function newChoice(): ChoiceState {
  return {
    tokens: new Int32Array(64),
    numTokens: 0,
    numPromptLogprobs: 0,
    numToSkip: 0,
    hasBegun: false,
    isClosed: false,
    isFinished: false,
  };
}

export function append(choice: ChoiceState, tokenIds: Int32Array): void {
  const numTokens = choice.numTokens + tokenIds.length;
  if (numTokens > choice.tokens.length) {
    const grown = new Int32Array(2 * numTokens);
    grown.set(choice.tokens);
    choice.tokens = grown;
  }
  choice.tokens.set(tokenIds, choice.numTokens);
  choice.numTokens = numTokens;
}

export function generatedOf(choice: ChoiceState | undefined): Int32Array {
  return choice ? choice.tokens.slice(0, choice.numTokens) : new Int32Array(0);
}

/** Those that an earlier attempt has delivered are left out. */
export function newPromptLogprobs(choice: ChoiceState, logprobs: readonly TokenLogprob[]): readonly TokenLogprob[] {
  const numSkipped = Math.min(choice.numToSkip, logprobs.length);
  choice.numToSkip -= numSkipped;
  choice.numPromptLogprobs += logprobs.length - numSkipped;
  return numSkipped === 0 ? logprobs : logprobs.slice(numSkipped);
}
