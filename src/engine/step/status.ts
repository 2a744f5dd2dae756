// Owns what an engine says of its state: counters, pages, graph modes, progress.
import { create } from '@bufbuild/protobuf';
import type { StepTimeModel } from '../../common/step-time.ts';
import {
  type HandOffStatus,
  type StatusReply,
  StatusReplySchema,
  type StepTime,
  StepTimeSchema,
} from '../../contract/generated/xllm_pb.js';
import type { KvCache } from '../kv/kv-cache.ts';
import type { MemoryPlan } from '../kv/memory-plan.ts';
import type { GraphMode, StepOutput, StepPlan } from '../scheduler/plan.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import { shapeOfPlan } from '../scheduler/step-shape.ts';
import { StepTimeFit } from '../scheduler/step-time-fit.ts';

interface Progress {
  readonly numSteps: number;
  readonly stalledMs: number;
  readonly eventLoopCpuUs: number;
  readonly isDraining: boolean;
  readonly handOff: HandOffStatus;
}

export class EngineStatus {
  readonly #scheduler: Scheduler;
  readonly #kv: KvCache;
  readonly #memory: MemoryPlan;
  readonly #stepsByMode: Record<GraphMode, number> = { full: 0, partial: 0, eager: 0 };
  readonly #stepTime: StepTimeFit;
  #computeMs = 0;

  constructor(engine: {
    readonly scheduler: Scheduler;
    readonly kv: KvCache;
    readonly memory: MemoryPlan;
    readonly stepTime: StepTimeModel;
  }) {
    this.#stepTime = new StepTimeFit(engine.stepTime);
    this.#scheduler = engine.scheduler;
    this.#kv = engine.kv;
    this.#memory = engine.memory;
  }

  /** After each step. */
  count(plan: StepPlan, { graphMode, computeMs }: StepOutput): void {
    this.#stepsByMode[graphMode]++;
    this.#computeMs += computeMs;
    this.#stepTime.observe(shapeOfPlan(plan), computeMs);
  }

  /** What steps cost, as far as is known by now. */
  stepTime(): StepTime {
    const { model, error, numSteps } = this.#stepTime;
    return create(StepTimeSchema, { ...model, error, numSteps: BigInt(numSteps) });
  }

  reply(progress: Progress): StatusReply {
    const stats = this.#scheduler.stats();
    const { groups } = this.#kv.stats();
    const sum = (key: 'numPages' | 'numFree' | 'numAllocated' | 'numMapped' | 'numReusable') =>
      groups.reduce((total, group) => total + group[key], 0);
    const { full, partial, eager } = this.#stepsByMode;
    return create(StatusReplySchema, {
      steps: BigInt(progress.numSteps),
      numRunning: stats.numRunning,
      numWaiting: stats.numWaiting,
      numKvBlocks: sum('numPages'),
      // Cached blocks that nobody holds are free for the taking.
      numKvBlocksUsed: sum('numAllocated') + sum('numMapped'),
      numPreemptions: BigInt(stats.numPreemptions),
      prefixCacheQueries: BigInt(stats.numPrefixQueries),
      prefixCacheHits: BigInt(stats.numPrefixHits),
      promptTokens: BigInt(stats.numPromptTokens),
      promptTokensComputed: BigInt(stats.numPromptTokensComputed),
      generationTokens: BigInt(stats.numGenerationTokens),
      numQueuedTokens: BigInt(stats.numQueuedTokens),
      numContextTokens: BigInt(stats.numContextTokens),
      stepTime: this.stepTime(),
      draining: progress.isDraining,
      handOff: progress.handOff,
      stalledMs: Math.round(progress.stalledMs),
      graphModeSteps: { full: BigInt(full), partial: BigInt(partial), eager: BigInt(eager) },
      pageStates: {
        free: BigInt(sum('numFree')),
        allocated: BigInt(sum('numAllocated')),
        mapped: BigInt(sum('numMapped')),
        reusable: BigInt(sum('numReusable')),
      },
      eventLoopCpuUs: BigInt(Math.round(progress.eventLoopCpuUs)),
      kvBytes: BigInt(this.#memory.kvBytes),
      rssBytes: BigInt(process.memoryUsage.rss()),
      computeUs: BigInt(Math.round(this.#computeMs * 1_000)),
    });
  }
}
