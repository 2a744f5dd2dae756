// Owns what an engine process hosts, whatever it computes on.
import type { Clock } from '../../common/clock.ts';
import type { StepTimeModel } from '../../common/step-time.ts';
import type { CacheGroup } from '../kv/cache-group.ts';
import type { KvCache } from '../kv/kv-cache.ts';
import type { PageStore } from '../kv/spaces/page-store.ts';
import type { MemoryPlan } from '../kv/memory-plan.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import type { Executor } from './executor.ts';
import { loadEngine } from './load-engine.ts';
import { loadTimedEngine, type TimedEngineOptions } from './load-timed-engine.ts';
import { defaultProfile } from './timed-profile.ts';

export interface HostedEngine {
  /** What its KV pages consist of. */
  readonly groups: readonly CacheGroup[];
  readonly kv: KvCache;
  readonly executor: Executor;
  /** The memory behind the pages. */
  readonly pages: PageStore;
  /** Whether steps can read and write pages of paired instances' pools. */
  readonly readsForeignPages: boolean;
  readonly scheduler: Scheduler;
  readonly memory: MemoryPlan;
  readonly numericsId: string;
  /** Ids that have a token. */
  readonly vocabSize: number;
  readonly stopTokenIds: readonly number[];
  /** What steps are taken to cost before any was measured. */
  readonly stepTime: StepTimeModel;
  /** For people: label → text. */
  readonly summary: Readonly<Record<string, string>>;
  /** What loading took: part → milliseconds, in order. */
  readonly loadMs: Readonly<Record<string, number>>;
  close(): Promise<void>;
}

export interface HostedEngineOptions extends TimedEngineOptions {
  readonly device: 'cpu' | 'timed';
}

/** Throws XllmError when the model cannot be loaded. */
export async function openEngine(
  options: HostedEngineOptions,
  clock: Clock,
  onWarning: (text: string) => void,
): Promise<HostedEngine> {
  if (options.device === 'timed') return loadTimedEngine(options, clock);
  const engine = await loadEngine(options, clock, onWarning);
  const { numIds, stopTokenIds } = engine.model.config;
  return {
    ...engine,
    vocabSize: numIds,
    stopTokenIds,
    // Of another model perhaps, but of the right order for a first guess; the first steps correct it.
    stepTime: defaultProfile.stepTime,
  };
}
