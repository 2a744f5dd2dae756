// Owns the composition of one engine: model, KV cache, executor and scheduler, from options to a loop that can run.
import { availableParallelism, cpus } from 'node:os';
import type { Clock } from '../../common/clock.ts';
import { Laps } from '../../common/laps.ts';
import { openWeights } from '../../files/open-weights.ts';
import { openGgml } from '../ffi/ggml.ts';
import { readAvailableMemory } from '../kv/available-memory.ts';
import type { CacheGroup } from '../kv/cache-group.ts';
import { KvCache } from '../kv/kv-cache.ts';
import { type MemoryPlan, planMemory } from '../kv/memory-plan.ts';
import { createKvSpace, type KvSpaceOptions } from '../kv/spaces/create-space.ts';
import type { PageStore } from '../kv/spaces/page-store.ts';
import { cacheGroups } from '../models/config.ts';
import { loadModel, type Model } from '../models/model.ts';
import { readModelConfig } from '../models/registry.ts';
import { writePerfMap } from '../jit/perf-map.ts';
import { packingFor, programObstacle } from '../program/packing.ts';
import { createEditsBuilder } from '../sampler/edits.ts';
import { Scheduler } from '../scheduler/scheduler.ts';
import type { SchedulerLimits, SchedulingPolicy } from '../scheduler/spec.ts';
import type { WeightsMemory } from '../weights/cache/place-weights.ts';
import type { DTypePolicy } from '../weights/dtype-policy.ts';
import { createExecutor, type LocalExecutor } from './create-executor.ts';
import type { Executor } from './executor.ts';
import { chooseKvElement, type KvCacheDtype } from './kv-cache-dtype.ts';
import { ProgramExecutor } from './program-executor.ts';
import { chooseKernels, type KernelChoice, type Kernels } from './kernel-choice.ts';

export interface EngineLoadOptions {
  readonly modelPath: string;
  readonly modelName: string;
  readonly dtype: DTypePolicy;
  readonly kernels: Kernels;
  readonly threads?: number | undefined;
  readonly deterministic: boolean;
  readonly maxModelLen?: number | undefined;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly maxQueueLen: number;
  readonly maxQueueWaitS: number;
  readonly maxNumPartialPrefills: number;
  readonly maxLongPartialPrefills: number;
  readonly longPrefillThreshold: number;
  readonly schedulingPolicy: SchedulingPolicy;
  readonly enablePrefixCaching: boolean;
  readonly blockSize: number;
  readonly kvLayout: KvSpaceOptions['layout'];
  readonly kvCacheDtype: KvCacheDtype;
  readonly kvCacheMemory?: number | undefined;
  /** They share this host's memory. */
  readonly instancesOnHost: number;
  /** The product's cache folder, of which packed weights may take `weightsCacheLimit` bytes; 0: none are cached. */
  readonly cacheFolder: string;
  readonly weightsCacheLimit: number;
  readonly weightsMemory: WeightsMemory;
  /** Write the map of emitted code that Linux perf reads. */
  readonly perfMap: boolean;
}

export interface LoadedEngine {
  readonly model: Model;
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
  /** For people: label → text. */
  readonly summary: Readonly<Record<string, string>>;
  /** What loading took: part → milliseconds, in order. */
  readonly loadMs: Readonly<Record<string, number>>;
  close(): Promise<void>;
}

/** Outputs beyond one per sequence in a step: prompt log-probabilities come this many at a time. */
const NUM_EXTRA_OUTPUTS = 64;

/** Throws XllmError (model_file_invalid, model_unsupported, out_of_memory, native_unavailable, usage). */
export async function loadEngine(
  options: EngineLoadOptions,
  clock: Clock,
  onWarning: (text: string) => void = () => {},
): Promise<LoadedEngine> {
  const laps = new Laps(clock);
  const ggml = openGgml();
  laps.end('ggml');
  const file = await openWeights(options.modelPath);
  laps.end('header');
  const numThreads = options.threads ?? availableParallelism();
  let model: Model;
  let choice: KernelChoice;
  try {
    const config = await readModelConfig(file);
    choice = chooseKernels(options.kernels, programObstacle(config, file, options.dtype));
    model = await loadModel(ggml, file, {
      config,
      dtype: options.dtype,
      packing: packingFor(choice.kernels),
      numThreads,
      cache: { folder: options.cacheFolder, limitBytes: options.weightsCacheLimit, memory: options.weightsMemory },
      onWarning,
    });
  } finally {
    file.close();
  }
  const { preparation } = model;
  laps.end('model');
  laps.split('model', 'weights', preparation.wallMs);
  const groups = cacheGroups(model.config, chooseKvElement(options.kvCacheDtype, options.dtype, choice));
  const { blockSize: blockTokens, maxNumSeqs } = options;
  const maxNumBatchedTokens = Math.max(options.maxNumBatchedTokens, maxNumSeqs);
  const available = readAvailableMemory();
  const memory = planMemory({
    groups,
    blockTokens,
    maxModelLen: Math.min(options.maxModelLen ?? model.config.maxPositions, model.config.maxPositions),
    maxNumSeqs,
    maxStepTokens: maxNumBatchedTokens,
    // Weights that are mapped are shared by all instances, the rest is divided among them.
    availableBytes: Math.floor(
      Math.max(0, available.bytes - (preparation.isMapped ? model.numBytes : 0)) / options.instancesOnHost,
    ),
    wantedBytes: options.kvCacheMemory ?? 0,
  });
  const { numPages, maxModelLen } = memory;
  const { space, numRangeSlots, maxMappings } = await createKvSpace({
    groups,
    numPages,
    blockTokens,
    maxModelLen,
    maxNumSeqs,
    maxBatchedTokens: maxNumBatchedTokens,
    layout: options.kvLayout,
    gainsFromRanges: choice.kernels === 'ggml',
    // Called while steps run, which is after the cache below was made.
    onShortage: (group, count) => kv.limitPages(group, count),
  });
  laps.end('KV pool');
  const maxNumOutputs = maxNumSeqs + NUM_EXTRA_OUTPUTS;
  const executor = createExecutor({
    ggml,
    model,
    groups,
    space,
    choice,
    deterministic: options.deterministic,
    numThreads,
    polls: numThreads * options.instancesOnHost <= cpus().length,
    maxTokens: maxNumBatchedTokens,
    maxOutputs: maxNumOutputs,
    maxPositions: maxModelLen,
  });
  const removePerfMap = options.perfMap ? publishKernels(executor, onWarning) : () => {};
  laps.end('kernels');
  const kv = new KvCache({
    groups,
    numPages,
    blockTokens,
    maxModelLen,
    maxStepTokens: maxNumBatchedTokens,
    numRangeSlots,
    maxMappings,
  });
  const scheduler = new Scheduler({
    kv,
    limits: schedulerLimits(options, maxModelLen),
    policy: options.schedulingPolicy,
    edits: createEditsBuilder(model.config.stopTokenIds),
    modelStopIds: model.config.stopTokenIds,
    usesPrefixCache: options.enablePrefixCaching,
    digestSeed: { model: options.modelName, numericsId: executor.numericsId },
  });
  laps.end('scheduler');
  return {
    model,
    groups,
    kv,
    executor,
    pages: space,
    // ggml reaches pages as parts of one tensor, emitted kernels by address.
    readsForeignPages: choice.kernels !== 'ggml',
    scheduler,
    memory,
    numericsId: executor.numericsId,
    summary: {
      weights: describeWeights(model),
      memory: memory.summary.join('; '),
      'KV layout': `${space.layout} (${space.reason})`,
      context: `${maxModelLen} tokens, ${maxNumSeqs} sequences and ${maxNumBatchedTokens} tokens a step`,
      compute: `${numThreads} thread${numThreads === 1 ? '' : 's'}, kernels ${choice.kernels} (${choice.reason}), ggml ${ggml.version} (${ggml.variant})`,
    },
    loadMs: laps.all,
    close: async () => {
      await executor.close();
      removePerfMap();
      await preparation.published;
      space.close();
      model.close();
    },
  };
}

/** Names emitted code for perf until the returned function is called. A profile without names is better than no engine. */
function publishKernels(executor: LocalExecutor, onWarning: (text: string) => void): () => void {
  if (!(executor instanceof ProgramExecutor)) {
    onWarning('there is no map for perf: ggml computes, no code is emitted');
    return () => {};
  }
  try {
    return writePerfMap(executor.kernels);
  } catch (error) {
    onWarning(`there is no map for perf: ${error instanceof Error ? error.message : String(error)}`);
    return () => {};
  }
}

export function schedulerLimits(options: EngineLoadOptions, maxModelLen: number): SchedulerLimits {
  const { maxNumSeqs, maxQueueWaitS } = options;
  return {
    maxNumSeqs,
    maxNumBatchedTokens: Math.max(options.maxNumBatchedTokens, maxNumSeqs),
    maxNumOutputs: maxNumSeqs + NUM_EXTRA_OUTPUTS,
    maxModelLen,
    maxQueueLen: options.maxQueueLen,
    maxQueueMs: maxQueueWaitS > 0 ? maxQueueWaitS * 1_000 : Number.POSITIVE_INFINITY,
    maxNumPartialPrefills: options.maxNumPartialPrefills,
    maxLongPartialPrefills: options.maxLongPartialPrefills,
    longPrefillThreshold: options.longPrefillThreshold,
  };
}

function describeWeights({ numBytes, weightTypes, preparation }: Model): string {
  const { source, numRowsPacked, wallMs, cpuMs, memory } = preparation;
  const how = source === 'cache' ? 'from the cache' : numRowsPacked > 0 ? 'packed' : 'read';
  const time = `${how} in ${(wallMs / 1_000).toFixed(2)} s (${(cpuMs / 1_000).toFixed(2)} s of CPU)`;
  return `${(numBytes / 1e6).toFixed(0)} MB ${weightTypes.join(', ')}, ${time}; ${memory}`;
}
