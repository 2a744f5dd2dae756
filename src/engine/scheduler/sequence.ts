// Owns the record of one sequence, the states that it goes through, and what can be derived from it.
import type { BlockDigest } from '../../common/block-digest.ts';
import type { KvSequence } from '../kv/kv-cache.ts';
import type { SequenceSpec, SequenceTiming } from './spec.ts';

/**
 * waiting: holds no KV. running: holds KV, gets rows. preempting, finishing: out of the race, but a step in flight still
 * writes its KV, so it holds on until that is committed. finished: gone.
 */
export type SequenceState = 'waiting' | 'running' | 'preempting' | 'finishing' | 'finished';

/** drained: the last step in flight that has the sequence was committed. */
export type SequenceEvent = 'admit' | 'preempt' | 'finish' | 'drained';

/** The next state, or null where the event cannot happen. */
export function transition(state: SequenceState, event: SequenceEvent, isInFlight: boolean): SequenceState | null {
  switch (event) {
    case 'admit':
      return state === 'waiting' ? 'running' : null;
    case 'preempt':
      if (state !== 'running') return null;
      return isInFlight ? 'preempting' : 'waiting';
    case 'finish':
      if (state === 'finishing' || state === 'finished') return null;
      return isInFlight ? 'finishing' : 'finished';
    case 'drained':
      if (state === 'preempting') return 'waiting';
      return state === 'finishing' ? 'finished' : null;
  }
}

export interface ImportedKv {
  readonly kv: KvSequence;
  readonly numTokens: number;
  /** Of the full blocks among them. */
  readonly digests: readonly BlockDigest[];
}

/** Positions: [0, numComputed) committed ⊆ [0, numPlanned) planned ⊆ [0, numTokens + numPending) known to exist. */
export interface Sequence {
  readonly spec: SequenceSpec;
  /** Place in the order of arrival. */
  readonly arrival: number;
  readonly arrivalMs: number;
  /** Its logits cannot be edited before the last token is known: it runs in alternate steps. */
  readonly needsTokens: boolean;
  readonly timing: { -readonly [K in keyof SequenceTiming]: SequenceTiming[K] };
  readonly params: SequenceSpec['params'];
  readonly numPrompt: number;
  /** Prompt and generated ids, with room to grow. */
  tokens: Int32Array;
  /** Ids that are known. */
  numTokens: number;
  /** Ids sampled by steps in flight. */
  numPending: number;
  numPlanned: number;
  numComputed: number;
  /** Steps in flight that have the sequence. */
  numInFlight: number;
  state: SequenceState;
  isPaused: boolean;
  /** No row once more tokens than this exist: it is about to leave. Infinity: it stays. */
  holdFrom: number;
  /** KV that came from another instance, until it is admitted: of its first `numTokens` tokens. */
  imported: ImportedKv | null;
  kv: KvSequence | null;
  /** Digests of its full blocks, as far as they were needed; `rootDigest` before the first. */
  readonly digests: BlockDigest[];
  readonly root: BlockDigest;
  /** Index of its sampled token in the last plan that has it. */
  outputIndex: number;
  /** Prompt positions whose log-probabilities are delivered or in flight. */
  numPromptScored: number;
  /** Last plan that has a row of it. */
  lastStepId: number;
}

export function createSequence(
  spec: SequenceSpec,
  arrival: number,
  nowMs: number,
  root: BlockDigest,
  needsTokens: boolean,
): Sequence {
  const numPrompt = spec.promptIds.length;
  const numTokens = numPrompt + spec.generatedIds.length;
  const tokens = new Int32Array(numTokens + Math.min(spec.params.maxTokens, 256));
  tokens.set(spec.promptIds);
  tokens.set(spec.generatedIds, numPrompt);
  return {
    spec,
    arrival,
    arrivalMs: nowMs,
    needsTokens,
    timing: { numCachedTokens: -1, queueMs: Number.NaN, prefillMs: Number.NaN, numPreemptions: 0 },
    params: spec.params,
    numPrompt,
    tokens,
    numTokens,
    numPending: 0,
    numPlanned: 0,
    numComputed: 0,
    numInFlight: 0,
    state: 'waiting',
    isPaused: false,
    holdFrom: Number.POSITIVE_INFINITY,
    imported: null,
    kv: null,
    digests: [],
    root,
    outputIndex: -1,
    numPromptScored: 0,
    lastStepId: -1,
  };
}

/** Tokens that exist, those in flight included: the position that is sampled once all of them are computed. */
export function numExpected(sequence: Sequence): number {
  return sequence.numTokens + sequence.numPending;
}

/** Tokens that exist and are in no plan yet. */
export function numRemaining(sequence: Sequence): number {
  return numExpected(sequence) - sequence.numPlanned;
}

/** Whether log-probabilities of prompt positions are still wanted. */
export function wantsPromptScores(sequence: Sequence): boolean {
  return sequence.params.numPromptLogprobs >= 0 && sequence.numPromptScored < sequence.numPrompt - 1;
}

/** Whether another token may be sampled, counting those in flight. */
export function canSample(sequence: Sequence, maxModelLen: number): boolean {
  const expected = numExpected(sequence);
  return expected - sequence.numPrompt < sequence.params.maxTokens && expected < maxModelLen;
}

export function appendToken(sequence: Sequence, token: number): void {
  if (sequence.numTokens === sequence.tokens.length) {
    const grown = new Int32Array(2 * sequence.tokens.length);
    grown.set(sequence.tokens);
    sequence.tokens = grown;
  }
  sequence.tokens[sequence.numTokens++] = token;
}
