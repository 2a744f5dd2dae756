// Owns one simulated engine: the real scheduler and KV cache on a virtual clock, steps that take what a cost model says.
import { create } from '@bufbuild/protobuf';
import { predictStepMs, type StepTimeModel } from '../../src/common/step-time.ts';
import { type Heartbeat, HeartbeatSchema } from '../../src/contract/generated/xllm_pb.js';
import { KvCache } from '../../src/engine/kv/kv-cache.ts';
import type { StepOutput, StepPlan } from '../../src/engine/scheduler/plan.ts';
import { greedyParams } from '../../src/engine/scheduler/sampling-params.ts';
import { Scheduler } from '../../src/engine/scheduler/scheduler.ts';
import { ordinarySequence, type SequenceUpdate } from '../../src/engine/scheduler/spec.ts';
import { shapeOfPlan } from '../../src/engine/scheduler/step-shape.ts';

export interface SimInstanceOptions {
  readonly name: string;
  readonly stepTime: StepTimeModel;
  readonly blockTokens: number;
  readonly numKvBlocks: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly longPrefillThreshold: number;
  readonly maxModelLen: number;
  readonly numericsId: string;
  readonly modelName: string;
}

const group = { name: 'all', layers: [0], numKvHeads: 1, keyDim: 16, valueDim: 16 } as const;

export class SimInstance {
  readonly options: SimInstanceOptions;
  readonly #kv: KvCache;
  readonly #scheduler: Scheduler;
  #numKvBlocksUsed = 0;
  #step: StepPlan | null = null;
  numSubmits = 0;

  constructor(options: SimInstanceOptions) {
    this.options = options;
    const { blockTokens, numKvBlocks, maxNumSeqs, maxNumBatchedTokens, maxModelLen, modelName, numericsId } = options;
    this.#kv = new KvCache({
      groups: [{ ...group, kind: { type: 'paged' }, element: 'f16' }],
      numPages: [numKvBlocks],
      blockTokens,
      maxModelLen,
      maxStepTokens: maxNumBatchedTokens,
      numRangeSlots: 0,
      maxMappings: 0,
    });
    this.#scheduler = new Scheduler({
      kv: this.#kv,
      limits: {
        maxNumSeqs,
        maxNumBatchedTokens,
        maxNumOutputs: maxNumSeqs + 64,
        maxModelLen,
        maxQueueLen: 1_000_000,
        maxQueueMs: Number.POSITIVE_INFINITY,
        maxNumPartialPrefills: 4,
        maxLongPartialPrefills: 1,
        longPrefillThreshold: options.longPrefillThreshold,
      },
      policy: 'fcfs',
      edits: { needsTokens: () => false, editsFor: () => null },
      modelStopIds: [],
      usesPrefixCache: true,
      digestSeed: { model: modelName, numericsId },
    });
  }

  get isComputing(): boolean {
    return this.#step !== null;
  }

  /** Prompt tokens looked up in, and found in, the prefix cache. */
  get prefix(): { readonly queries: number; readonly hits: number } {
    const { numPrefixQueries, numPrefixHits } = this.#scheduler.stats();
    return { queries: numPrefixQueries, hits: numPrefixHits };
  }

  /** False: it can never fit. */
  submit(id: number, promptIds: Int32Array, maxTokens: number, nowMs: number): boolean {
    this.numSubmits++;
    const params = { ...greedyParams, maxTokens };
    const refusal = this.#scheduler.add(
      {
        ...ordinarySequence,
        id,
        promptIds,
        params,
      },
      nowMs,
    );
    return refusal === null;
  }

  /** Milliseconds that the next step takes; null: there is none now. */
  begin(nowMs: number): number | null {
    this.#step = this.#scheduler.plan(nowMs);
    return this.#step && predictStepMs(this.options.stepTime, shapeOfPlan(this.#step));
  }

  end(nowMs: number): readonly SequenceUpdate[] {
    const plan = this.#step;
    if (!plan) return [];
    this.#step = null;
    const numOutputs = plan.outputToken.length;
    const output: StepOutput = {
      stepId: plan.stepId,
      tokenIds: new Int32Array(numOutputs).fill(7),
      logprobs: new Float32Array(numOutputs),
      topLogprobs: [],
      graphMode: 'eager',
      computeMs: 0,
    };
    return this.#scheduler.commit(plan, output, nowMs);
  }

  events(after: number) {
    return { after, ...this.#kv.eventsSince(after) };
  }

  beat(): Heartbeat {
    const stats = this.#scheduler.stats();
    const [pages] = this.#kv.stats().groups;
    this.#numKvBlocksUsed = (pages?.numAllocated ?? 0) + (pages?.numMapped ?? 0);
    return create(HeartbeatSchema, {
      incarnation: this.options.name,
      numSubmits: BigInt(this.numSubmits),
      status: {
        numRunning: stats.numRunning,
        numWaiting: stats.numWaiting,
        numQueuedTokens: BigInt(stats.numQueuedTokens),
        numContextTokens: BigInt(stats.numContextTokens),
        numKvBlocks: this.options.numKvBlocks,
        numKvBlocksUsed: this.#numKvBlocksUsed,
        stepTime: this.options.stepTime,
      },
    });
  }
}
