// Owns what scheduler tests share: an engine of scheduler, KV cache and hash executor, driven step by step and checked.
import { invariant } from '../../../common/errors.ts';
import type { CacheGroup, CacheKind } from '../../kv/cache-group.ts';
import { KvCache } from '../../kv/kv-cache.ts';
import type { Executor } from '../../step/executor.ts';
import { HashExecutor, type HashExecutorOptions } from '../../step/hash-executor.ts';
import { outputKind, type StepOutput, type StepPlan } from '../plan.ts';
import type { LogitEdits, SamplingParams } from '../sampling-params.ts';
import { greedyParams } from '../sampling-params.ts';
import { ordinarySequence } from '../spec.ts';
import { Scheduler } from '../scheduler.ts';
import type {
  EditsBuilder,
  FinishReason,
  SchedulerLimits,
  SchedulingPolicy,
  SequenceSpec,
  SequenceUpdate,
} from '../spec.ts';

const blockTokens = 4;
const vocabSize = 40;
/** Ends a sequence unless it says ignoreEos. */
const eos = 0;

export function cacheGroup(kind: CacheKind): CacheGroup {
  return { name: kind.type, layers: [0], kind, numKvHeads: 1, keyDim: 16, valueDim: 16, element: 'f16' };
}
export const paged = cacheGroup({ type: 'paged' });

export const defaultParams: SamplingParams = { ...greedyParams, maxTokens: 16 };

const defaultLimits: SchedulerLimits = {
  maxNumSeqs: 8,
  maxNumBatchedTokens: 32,
  maxNumOutputs: 24,
  maxModelLen: 128,
  maxQueueLen: 1000,
  maxQueueMs: Number.POSITIVE_INFINITY,
  maxNumPartialPrefills: 3,
  maxLongPartialPrefills: 1,
  longPrefillThreshold: 16,
};

/** Stop tokens are forbidden before minTokens; generated tokens are penalised: any mistake changes the hash. */
const testEdits: EditsBuilder = {
  needsTokens: (params) => params.repetitionPenalty !== 1,
  editsFor({ params, tokens, numTokens, numPrompt }, position): LogitEdits | null {
    const adds = new Map<number, number>();
    if (params.repetitionPenalty !== 1) {
      invariant(numTokens === position, 'penalties before the last token is known');
      for (const token of tokens.subarray(numPrompt, numTokens)) adds.set(token, 0);
    }
    if (position - numPrompt < params.minTokens - 1) {
      for (const token of [eos, ...params.stopTokenIds]) adds.set(token, Number.NEGATIVE_INFINITY);
    }
    if (adds.size === 0) return null;
    const entries = [...adds].sort(([a], [b]) => a - b);
    const ones = new Float32Array(entries.length).fill(1);
    return {
      tokenIds: Int32Array.from(entries, ([token]) => token),
      scalePositive: ones,
      scaleNegative: ones,
      add: Float32Array.from(entries, ([, add]) => add),
    };
  },
};

export interface EngineOptions {
  readonly groups?: readonly CacheGroup[];
  readonly numPages?: number;
  readonly limits?: Partial<SchedulerLimits>;
  readonly policy?: SchedulingPolicy;
  readonly isAsync?: boolean;
  readonly usesPrefixCache?: boolean;
  readonly numRangeSlots?: number;
  readonly maxMappings?: number;
  readonly edits?: EditsBuilder;
  /** A hash executor unless given. */
  readonly executor?: (options: HashExecutorOptions) => Executor;
  /** Integrity of all pages at every plan and commit. */
  readonly isChecked?: boolean;
}

let numSpecs = 0;

/** A sequence of `prompt` tokens (a number: so many that no other spec has). */
export function makeSpec(prompt: number | readonly number[], more: Partial<SequenceSpec> = {}): SequenceSpec {
  const id = numSpecs++;
  const promptIds =
    typeof prompt === 'number' ? Int32Array.from({ length: prompt }, (_, i) => 1000 * id + i) : Int32Array.from(prompt);
  return {
    ...ordinarySequence,
    id,
    promptIds,
    params: defaultParams,
    ...more,
  };
}

/** Everything that was heard of one sequence. */
export interface Outcome {
  readonly tokens: number[];
  readonly logprobs: string[];
  readonly promptLogprobs: string[];
  finish: FinishReason | null;
  stopTokenId: number;
  refused: string | null;
  last: SequenceUpdate | null;
}

export class TestEngine {
  readonly scheduler: Scheduler;
  readonly kv: KvCache;
  readonly executor: Executor;
  readonly limits: SchedulerLimits;
  readonly outcomes = new Map<number, Outcome>();
  /** Milliseconds; every plan and commit takes one. */
  nowMs = 0;
  readonly plans: StepPlan[] = [];
  readonly #isAsync: boolean;
  readonly #isChecked: boolean;

  constructor(options: EngineOptions = {}) {
    const { groups = [paged], numPages = 64, policy = 'fcfs', isAsync = false, usesPrefixCache = true } = options;
    this.limits = { ...defaultLimits, ...options.limits };
    this.#isAsync = isAsync;
    this.#isChecked = options.isChecked ?? true;
    const pages = groups.map(() => numPages);
    this.kv = new KvCache({
      groups,
      numPages: pages,
      blockTokens,
      maxModelLen: this.limits.maxModelLen,
      maxStepTokens: this.limits.maxNumBatchedTokens,
      numRangeSlots: options.numRangeSlots ?? 0,
      maxMappings: options.maxMappings ?? 10_000,
    });
    const memory = { groups, numPages: pages, blockTokens, vocabSize };
    this.executor = options.executor?.(memory) ?? new HashExecutor(memory);
    this.scheduler = new Scheduler({
      kv: this.kv,
      limits: this.limits,
      policy,
      edits: options.edits ?? testEdits,
      modelStopIds: [eos],
      usesPrefixCache,
      digestSeed: { model: 'm', numericsId: 'n' },
    });
  }

  add(spec: SequenceSpec): Outcome {
    const refusal = this.scheduler.add(spec, this.nowMs);
    const outcome: Outcome = {
      tokens: [],
      logprobs: [],
      promptLogprobs: [],
      finish: null,
      stopTokenId: -1,
      refused: refusal?.refused ?? null,
      last: null,
    };
    if (!refusal) this.outcomes.set(spec.id, outcome);
    return outcome;
  }

  abort(id: number, keepTokens?: number): void {
    const update = this.scheduler.abort(id, keepTokens);
    if (update) this.hear([update]);
  }

  /**
   * One step at a time, as the step loop does it, until nothing is left. `onStep` may add, abort, pause; it returns
   * whether it will do more, so that idle steps go on.
   */
  async drive(onStep: (step: number) => boolean = () => false): Promise<void> {
    let current: { plan: StepPlan; result: Promise<StepOutput> } | null = null;
    for (let step = 0; ; step++) {
      const isMoreToCome = onStep(step);
      if (!current) {
        const plan = this.#plan(false);
        if (!plan) {
          this.hear(this.scheduler.expire(this.nowMs));
          const isStuck = this.scheduler.hasWork() && this.scheduler.stats().numPaused === 0;
          invariant(!isStuck, 'the scheduler has work and plans nothing');
          if (!isMoreToCome) return;
          continue;
        }
        await this.executor.prepare(plan);
        current = { plan, result: this.executor.run(plan) };
      }
      const next = this.#isAsync ? this.#plan(true) : null;
      if (next) await this.executor.prepare(next);
      const output = await current.result;
      const following = next ? { plan: next, result: this.executor.run(next) } : null;
      this.hear(this.scheduler.commit(current.plan, output, ++this.nowMs));
      if (this.#isChecked) this.kv.checkIntegrity();
      current = following;
    }
  }

  /** Throws unless everything has ended and every page is back. */
  checkIdle(): void {
    this.kv.checkIntegrity();
    const { numRunning, numWaiting } = this.scheduler.stats();
    invariant(numRunning === 0 && numWaiting === 0 && !this.scheduler.hasWork(), 'sequences are left');
    for (const [id, { finish }] of this.outcomes) invariant(finish !== null, `sequence ${id} never ended`);
    const { groups, numSequences } = this.kv.stats();
    invariant(numSequences === 0, `${numSequences} sequences hold KV`);
    for (const { numFree, numReusable, numPages } of groups)
      invariant(numFree + numReusable === numPages, 'pages leak');
  }

  hear(updates: readonly SequenceUpdate[]): void {
    for (const update of updates) {
      const outcome = this.outcomes.get(update.id);
      invariant(outcome && outcome.finish === null, `sequence ${update.id} is heard of after its end`);
      outcome.tokens.push(...update.tokenIds);
      const text = ({ tokenId, logprob, top }: (typeof update.logprobs)[number]): string =>
        `${tokenId} ${logprob} ${top ? `${top.ids.join()} ${top.logprobs.join()}` : ''}`;
      outcome.logprobs.push(...update.logprobs.map(text));
      outcome.promptLogprobs.push(...update.promptLogprobs.map(text));
      outcome.finish = update.finish;
      outcome.stopTokenId = update.stopTokenId;
      outcome.last = update;
    }
  }

  #plan(isSecond: boolean): StepPlan | null {
    const plan = this.scheduler.plan(++this.nowMs);
    if (this.#isChecked) this.kv.checkIntegrity();
    if (!plan) return null;
    this.plans.push(plan);
    const { maxNumBatchedTokens, maxNumSeqs, maxNumOutputs } = this.limits;
    invariant(plan.numTokens > 0 && plan.numTokens <= maxNumBatchedTokens, `${plan.numTokens} tokens in a step`);
    invariant(plan.numRows <= maxNumSeqs, `${plan.numRows} rows in a step`);
    invariant(plan.outputToken.length <= maxNumOutputs, `${plan.outputToken.length} outputs in a step`);
    invariant(new Set(plan.sequenceIds).size === plan.numRows, 'a sequence has two rows');
    for (let row = 0; row < plan.numRows; row++) {
      const first = plan.rowStart[row]!;
      invariant(plan.rowStart[row + 1]! > first, 'a row is empty');
      for (let i = first + 1; i < plan.rowStart[row + 1]!; i++) {
        invariant(plan.positions[i] === plan.positions[i - 1]! + 1, 'positions are not consecutive');
      }
      const isPlaceholder = plan.tokenIds[first] === -1;
      invariant(isPlaceholder === plan.previousOutput[row]! >= 0, 'a placeholder has no source');
      invariant(!isPlaceholder || isSecond, 'a placeholder refers to a committed step');
    }
    plan.outputKinds.forEach((kind, i) => {
      invariant((kind === outputKind.promptLogprobs) === plan.targetIds[i]! >= 0, 'a scored position has no target');
    });
    return plan;
  }
}

/** What a sequence generates with the engine to itself, computed at one stroke. */
export async function runAlone(spec: SequenceSpec, groups: readonly CacheGroup[]): Promise<Outcome> {
  const limits = { maxModelLen: 2048, maxNumBatchedTokens: 2048, maxNumOutputs: 4096, longPrefillThreshold: 2048 };
  const engine = new TestEngine({ groups, numPages: 512, limits, usesPrefixCache: false, isChecked: false });
  const outcome = engine.add({ ...spec, deadlineMs: Number.POSITIVE_INFINITY });
  await engine.drive();
  engine.checkIdle();
  return outcome;
}
