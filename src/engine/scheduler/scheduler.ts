// Owns the scheduler: the order of calls that makes a step, and what its owner may ask of it. Pure.
import { BlockHasher, type DigestSeed } from '../../common/block-digest.ts';
import { invariant, type Refusal } from '../../common/errors.ts';
import type { KvCache } from '../kv/kv-cache.ts';
import { refusalOf, WaitPredictor } from './admission.ts';
import { buildPlan } from './build-plan.ts';
import { commitStep, type InFlightStep } from './commit.ts';
import { draftDecodes } from './decode.ts';
import { StepDraft } from './draft.ts';
import type { StepOutput, StepPlan } from './plan.ts';
import { orders, SequenceQueue } from './policies.ts';
import { draftNewPrefills, draftRunningPrefills, lengthenChunks } from './prefill.ts';
import { type MovingSequence, movingSequence } from './moving.ts';
import { createSequence, numExpected, numRemaining, type ImportedKv, type Sequence } from './sequence.ts';
import type { EditsBuilder, SchedulerLimits, SchedulingPolicy, SequenceSpec, SequenceUpdate } from './spec.ts';
import { type Counters, ending, finish, preempt, rootOf, type SchedulerState } from './state.ts';

export interface SchedulerOptions {
  readonly kv: KvCache;
  readonly limits: SchedulerLimits;
  readonly policy: SchedulingPolicy;
  readonly edits: EditsBuilder;
  /** The model's own stop tokens; they end a sequence unless it says ignoreEos. */
  readonly modelStopIds: readonly number[];
  readonly usesPrefixCache: boolean;
  readonly digestSeed: Pick<DigestSeed, 'model' | 'numericsId'>;
}

export interface SchedulerStats extends Readonly<Counters> {
  readonly numRunning: number;
  readonly numWaiting: number;
  /** Of both. */
  readonly numPaused: number;
  /** Tokens that exist and are in no step yet, one of each decoding sequence left out. */
  readonly numQueuedTokens: number;
  /** Tokens of the running sequences. */
  readonly numContextTokens: number;
}

export class Scheduler {
  readonly #state: SchedulerState;
  readonly #predictor = new WaitPredictor();
  /** Oldest first; never more than two. */
  readonly #inFlight: InFlightStep[] = [];
  #numArrivals = 0;
  #numSteps = 0;
  #hasBacklog = false;

  constructor(options: SchedulerOptions) {
    const { kv, limits, policy, edits, modelStopIds, usesPrefixCache, digestSeed } = options;
    invariant(limits.maxNumBatchedTokens >= limits.maxNumSeqs, 'a step cannot hold one token of each sequence');
    invariant(limits.maxNumOutputs > limits.maxNumSeqs, 'a step cannot hold an output of each sequence and one more');
    this.#state = {
      limits,
      kv,
      hasher: new BlockHasher(kv.blockTokens),
      edits,
      modelStopIds: new Set(modelStopIds),
      usesPrefixCache,
      digestSeed,
      sequences: new Map(),
      waiting: new SequenceQueue(orders[policy]),
      running: new SequenceQueue(orders[policy]),
      leaders: new Map(),
      numDraining: 0,
      numPaused: 0,
      ended: [],
      counters: {
        numPreemptions: 0,
        numPrefixQueries: 0,
        numPrefixHits: 0,
        numPromptTokens: 0,
        numPromptTokensComputed: 0,
        numGenerationTokens: 0,
      },
    };
  }

  /** Queues a sequence, or says why not. */
  add(spec: SequenceSpec, nowMs: number): Refusal | null {
    const state = this.#state;
    invariant(!state.sequences.has(spec.id), `sequence ${spec.id} is added twice`);
    const refusal = refusalOf(state, this.#predictor, spec, nowMs);
    if (refusal) return refusal;
    const needsTokens = state.edits.needsTokens(spec.params);
    const root = rootOf(state, spec.cacheSalt);
    const sequence = createSequence(spec, this.#numArrivals++, nowMs, root, needsTokens);
    state.sequences.set(spec.id, sequence);
    state.waiting.insert(sequence);
    if (spec.group >= 0 && !state.leaders.has(spec.group)) state.leaders.set(spec.group, sequence);
    return null;
  }

  /** The next step, or null when nothing can run now. May be called while one plan is not yet committed. */
  plan(nowMs: number): StepPlan | null {
    const state = this.#state;
    invariant(this.#inFlight.length <= 1, 'a third step is planned while two are in flight');
    const draft = new StepDraft(this.#numSteps, state.limits);
    const numWaiting = state.waiting.length;
    for (const isOffline of [false, true]) {
      draftDecodes(state, draft, isOffline);
      draftRunningPrefills(state, draft, isOffline);
      draftNewPrefills(state, draft, isOffline, nowMs);
    }
    lengthenChunks(state, draft);
    this.#predictor.observe(nowMs, Math.max(0, numWaiting - state.waiting.length), this.#hasBacklog);
    this.#hasBacklog = state.waiting.length > 0;
    if (draft.sequences.length === 0) return null;
    this.#numSteps++;
    const plan = buildPlan(state, draft);
    this.#inFlight.push({ plan, sequences: draft.sequences });
    return plan;
  }

  /** Takes the output of the oldest plan in flight. */
  commit(plan: StepPlan, output: StepOutput, nowMs: number): SequenceUpdate[] {
    const step = this.#inFlight.shift();
    invariant(step?.plan === plan && output.stepId === plan.stepId, `step ${plan.stepId} is committed out of turn`);
    return [...this.#takeEnded(), ...commitStep(this.#state, step, output, nowMs)];
  }

  /**
   * Ends what is past its deadline. To be called now and then, because it must happen also while no step runs.
   * Returns the last updates of sequences that ended outside of a commit.
   */
  expire(nowMs: number): SequenceUpdate[] {
    const state = this.#state;
    for (const sequence of state.sequences.values()) {
      if (sequence.spec.deadlineMs > nowMs) continue;
      finish(state, sequence);
      const waitedMs = Math.round(nowMs - sequence.arrivalMs);
      const message = `the deadline passed after ${waitedMs} ms; allow more time or ask for fewer tokens`;
      state.ended.push(ending(sequence, 'error', { refused: 'deadline_exceeded', message }));
    }
    return this.#takeEnded();
  }

  /**
   * Ends a sequence and returns its last update; null: it has ended already. With `keepTokens` the caller found a stop
   * after that many generated tokens, and what came later does not count.
   */
  abort(id: number, keepTokens?: number): SequenceUpdate | null {
    const state = this.#state;
    const sequence = state.sequences.get(id);
    if (!sequence) return null;
    if (keepTokens !== undefined) {
      const numDropped = sequence.numTokens - sequence.numPrompt - keepTokens;
      state.counters.numGenerationTokens -= Math.max(0, numDropped);
    }
    finish(state, sequence);
    return ending(sequence, keepTokens === undefined ? 'abort' : 'stop', null);
  }

  /** Takes over a sequence whose first `numTokens` tokens another instance has computed, or says why not. */
  adopt(spec: SequenceSpec, imported: ImportedKv, nowMs: number): Refusal | null {
    const refusal = this.add(spec, nowMs);
    const sequence = this.#state.sequences.get(spec.id);
    if (refusal || !sequence) return refusal;
    sequence.imported = imported;
    sequence.digests.push(...imported.digests);
    return null;
  }

  /**
   * Keeps a sequence from running once it has more tokens than it has now, or, with `atOnce`, at all: it is about to
   * leave. `release` undoes it.
   */
  hold(id: number, atOnce = false): void {
    const sequence = this.#state.sequences.get(id);
    if (sequence) sequence.holdFrom = atOnce ? 0 : sequence.numTokens;
  }

  release(id: number): void {
    const sequence = this.#state.sequences.get(id);
    if (sequence) sequence.holdFrom = Number.POSITIVE_INFINITY;
  }

  /** A sequence as a transfer needs it; null: it has ended. */
  moving(id: number): MovingSequence | null {
    const sequence = this.#state.sequences.get(id);
    return sequence ? movingSequence(this.#state, sequence) : null;
  }

  /** Ends a sequence that another instance has taken, and returns its last update. */
  handOver(id: number): SequenceUpdate | null {
    const sequence = this.#state.sequences.get(id);
    if (!sequence) return null;
    finish(this.#state, sequence);
    return ending(sequence, 'handed-off', null);
  }

  /** Ends a sequence for a reason of its own; its last update. */
  fail(id: number, error: Refusal): SequenceUpdate | null {
    const sequence = this.#state.sequences.get(id);
    if (!sequence) return null;
    finish(this.#state, sequence);
    return ending(sequence, 'error', error);
  }

  /** Computes a running sequence anew: its KV cannot be relied on any more. */
  recompute(id: number): void {
    const sequence = this.#state.sequences.get(id);
    if (sequence?.state === 'running') preempt(this.#state, sequence);
  }

  /** No further rows for a sequence whose client cannot follow. It keeps its pages while nobody else needs them. */
  pause(id: number): void {
    this.#setPaused(id, true);
  }

  resume(id: number): void {
    this.#setPaused(id, false);
  }

  /** Whether a step is in flight or could be planned sooner or later without anything new. */
  hasWork(): boolean {
    const { sequences, numPaused, ended } = this.#state;
    return this.#inFlight.length > 0 || sequences.size > numPaused || ended.length > 0;
  }

  stats(): SchedulerStats {
    const { counters, running, waiting, numPaused, kv } = this.#state;
    const sum = (items: readonly Sequence[], of: (sequence: Sequence) => number) =>
      items.reduce((total, sequence) => total + of(sequence), 0);
    const queued = (sequence: Sequence) => Math.max(0, numRemaining(sequence) - 1);
    // Digests are known once planning has looked at a sequence: the first ones of the queue.
    const queuedNew = (sequence: Sequence) =>
      Math.max(0, queued(sequence) - kv.match(sequence.digests, sequence.digests.length) * kv.blockTokens);
    return {
      ...counters,
      numRunning: running.length,
      numWaiting: waiting.length,
      numPaused,
      numQueuedTokens: sum(running.items, queued) + sum(waiting.items, queuedNew),
      numContextTokens: sum(running.items, numExpected),
    };
  }

  #setPaused(id: number, isPaused: boolean): void {
    const sequence: Sequence | undefined = this.#state.sequences.get(id);
    if (!sequence || sequence.isPaused === isPaused) return;
    sequence.isPaused = isPaused;
    this.#state.numPaused += isPaused ? 1 : -1;
  }

  #takeEnded(): SequenceUpdate[] {
    const ended = this.#state.ended;
    this.#state.ended = [];
    return ended;
  }
}
