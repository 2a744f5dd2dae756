// Owns the scheduler's state and the moves between its queues: admit, preempt, finish, drain.
import { type BlockHasher, type DigestSeed, rootDigest } from '../../common/block-digest.ts';
import { invariant, type Refusal } from '../../common/errors.ts';
import type { KvCache, KvSequence } from '../kv/kv-cache.ts';
import type { SequenceQueue } from './policies.ts';
import { type Sequence, type SequenceEvent, transition } from './sequence.ts';
import type { EditsBuilder, FinishReason, SchedulerLimits, SequenceUpdate } from './spec.ts';

export interface SchedulerState {
  readonly limits: SchedulerLimits;
  readonly kv: KvCache;
  readonly hasher: BlockHasher;
  readonly edits: EditsBuilder;
  readonly modelStopIds: ReadonlySet<number>;
  readonly usesPrefixCache: boolean;
  readonly digestSeed: Pick<DigestSeed, 'model' | 'numericsId'>;
  /** All that are not finished or finishing, by id. */
  readonly sequences: Map<number, Sequence>;
  readonly waiting: SequenceQueue;
  readonly running: SequenceQueue;
  /** First sequence of each group of siblings. */
  readonly leaders: Map<number, Sequence>;
  /** Preempting and finishing: their pages come back when the steps in flight are committed. */
  numDraining: number;
  /** Of `sequences`. */
  numPaused: number;
  /** Last updates of sequences that ended outside a commit, to be fetched. */
  ended: SequenceUpdate[];
  readonly counters: Counters;
}

export interface Counters {
  numPreemptions: number;
  /** Prompt tokens looked up in, and found in, the prefix cache at first admission. */
  numPrefixQueries: number;
  numPrefixHits: number;
  numPromptTokens: number;
  /** Prompt tokens that committed steps computed, again after a preemption too. */
  numPromptTokensComputed: number;
  numGenerationTokens: number;
}

export function rootOf(state: SchedulerState, salt: string): ReturnType<typeof rootDigest> {
  return rootDigest({ ...state.digestSeed, blockTokens: state.kv.blockTokens, adapter: '', salt });
}

/** waiting → running. */
export function admit(
  state: SchedulerState,
  sequence: Sequence,
  kv: KvSequence,
  numCached: number,
  nowMs: number,
): void {
  state.waiting.remove(sequence);
  move(sequence, 'admit');
  const isImported = sequence.imported !== null;
  sequence.imported = null;
  sequence.kv = kv;
  sequence.numPlanned = sequence.numComputed = numCached;
  state.running.insert(sequence);
  const { timing, numPrompt } = sequence;
  if (timing.numCachedTokens >= 0) return;
  timing.numCachedTokens = Math.min(numCached, numPrompt);
  timing.queueMs = nowMs - sequence.arrivalMs;
  // The prompt was counted where it was computed.
  if (isImported) return;
  state.counters.numPromptTokens += numPrompt;
  state.counters.numPrefixQueries += numPrompt;
  state.counters.numPrefixHits += timing.numCachedTokens;
}

/** running → waiting, by way of preempting while a step in flight writes its pages. It is computed again later. */
export function preempt(state: SchedulerState, sequence: Sequence): void {
  state.running.remove(sequence);
  sequence.timing.numPreemptions++;
  state.counters.numPreemptions++;
  move(sequence, 'preempt');
  if (sequence.state === 'preempting') state.numDraining++;
  else requeue(state, sequence);
}

/** Ends a sequence; its pages go back now or when the steps in flight are committed. */
export function finish(state: SchedulerState, sequence: Sequence): void {
  if (sequence.state === 'waiting') state.waiting.remove(sequence);
  if (sequence.state === 'running') state.running.remove(sequence);
  if (sequence.state === 'preempting') state.numDraining--;
  move(sequence, 'finish');
  state.sequences.delete(sequence.spec.id);
  if (sequence.isPaused) state.numPaused--;
  if (state.leaders.get(sequence.spec.group) === sequence) state.leaders.delete(sequence.spec.group);
  if (sequence.state === 'finishing') state.numDraining++;
  else release(state, sequence);
}

/** To be called when the last step in flight that has the sequence was committed. */
export function drain(state: SchedulerState, sequence: Sequence): void {
  state.numDraining--;
  move(sequence, 'drained');
  if (sequence.state === 'waiting') requeue(state, sequence);
  else release(state, sequence);
}

/** The last update of a sequence that ends without a token. */
export function ending(sequence: Sequence, finish: FinishReason, error: Refusal | null): SequenceUpdate {
  const { spec, timing } = sequence;
  const tokenIds = new Int32Array(0);
  const numBefore = sequence.numTokens - sequence.numPrompt;
  return { id: spec.id, tokenIds, numBefore, logprobs: [], promptLogprobs: [], finish, stopTokenId: -1, error, timing };
}

function requeue(state: SchedulerState, sequence: Sequence): void {
  release(state, sequence);
  sequence.numPlanned = sequence.numComputed = 0;
  state.waiting.insert(sequence);
}

function release(state: SchedulerState, sequence: Sequence): void {
  if (sequence.kv) state.kv.free(sequence.kv);
  if (sequence.imported) state.kv.free(sequence.imported.kv);
  sequence.kv = sequence.imported = null;
}

function move(sequence: Sequence, event: SequenceEvent): void {
  const next = transition(sequence.state, event, sequence.numInFlight > 0);
  invariant(next !== null, `sequence ${sequence.spec.id} cannot ${event} while ${sequence.state}`);
  sequence.state = next;
}
