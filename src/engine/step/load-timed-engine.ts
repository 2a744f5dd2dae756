// Owns the composition of an engine on the timed device: a model's description, page accounting, a scheduler, no weights.
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../../common/clock.ts';
import { scaleModel } from '../../common/step-time.ts';
import { openDescription } from '../../files/open-weights.ts';
import { KvCache } from '../kv/kv-cache.ts';
import { planMemory } from '../kv/memory-plan.ts';
import { cacheGroups } from '../models/config.ts';
import { readModelConfig } from '../models/registry.ts';
import { createEditsBuilder } from '../sampler/edits.ts';
import { Scheduler } from '../scheduler/scheduler.ts';
import type { HostedEngine } from './hosted-engine.ts';
import { type EngineLoadOptions, schedulerLimits } from './load-engine.ts';
import { TimedExecutor } from './timed-executor.ts';
import { readProfile } from './timed-profile.ts';
import { TimedStore } from './timed-store.ts';

export interface TimedEngineOptions extends EngineLoadOptions {
  /** Factor on every modelled time: 0.1 is ten times as fast. */
  readonly timeScale: number;
  /** Profile file; absent: the one shipped. */
  readonly profile?: string | undefined;
}

/** Where neither the profile nor the operator says: enough for most tests, and accounted for only. */
const defaultKvBytes = 64 * 2 ** 30;
/** About how many tokens a sequence has that may end by itself. */
const meanTokens = 256;

/** Throws XllmError (usage, model_unavailable, model_file_invalid, model_unsupported, out_of_memory). */
export async function loadTimedEngine(options: TimedEngineOptions, clock: Clock): Promise<HostedEngine> {
  const profile = readProfile(options.profile);
  const stepTime = scaleModel(profile.stepTime, options.timeScale);
  const file = await openDescription(options.modelPath);
  const config = await readModelConfig(file).finally(() => file.close());
  const groups = cacheGroups(config, 'f16');
  const { blockSize: blockTokens, maxNumSeqs, modelName, timeScale } = options;
  const maxNumBatchedTokens = Math.max(options.maxNumBatchedTokens, maxNumSeqs);
  const memory = planMemory({
    groups,
    blockTokens,
    maxModelLen: Math.min(options.maxModelLen ?? config.maxPositions, config.maxPositions),
    maxNumSeqs,
    maxStepTokens: maxNumBatchedTokens,
    availableBytes: defaultKvBytes,
    wantedBytes: options.kvCacheMemory ?? profile.kvCacheMemory ?? defaultKvBytes,
  });
  const { numPages, maxModelLen } = memory;
  const kv = new KvCache({
    groups,
    numPages,
    blockTokens,
    maxModelLen,
    maxStepTokens: maxNumBatchedTokens,
    numRangeSlots: 0,
    maxMappings: 0,
  });
  const vocabSize = config.numIds;
  const numericsId = createHash('sha256')
    .update(`timed-1|${vocabSize}|${config.stopTokenIds.join()}`)
    .digest('hex')
    .slice(0, 16);
  const store = TimedStore.open(numPages, blockTokens);
  const executor = new TimedExecutor({
    store,
    blockTokens,
    vocabSize,
    stops: { stopTokenIds: config.stopTokenIds, meanTokens },
    stepTime,
    clock,
    sleep: (ms) => sleep(ms),
  });
  const scheduler = new Scheduler({
    kv,
    limits: schedulerLimits(options, maxModelLen),
    policy: options.schedulingPolicy,
    edits: createEditsBuilder(config.stopTokenIds),
    modelStopIds: config.stopTokenIds,
    usesPrefixCache: options.enablePrefixCaching,
    digestSeed: { model: modelName, numericsId },
  });
  return {
    groups,
    kv,
    executor,
    pages: store,
    readsForeignPages: true,
    scheduler,
    memory,
    numericsId,
    vocabSize,
    stopTokenIds: config.stopTokenIds,
    stepTime,
    summary: {
      device: `timed: no weights; steps take the time of ${profile.name}, times ${timeScale}; tokens are hashes`,
      memory: memory.summary.join('; '),
      context: `${maxModelLen} tokens, ${maxNumSeqs} sequences and ${maxNumBatchedTokens} tokens a step`,
    },
    loadMs: {},
    close: async () => {
      await executor.close();
      store.close();
    },
  };
}
