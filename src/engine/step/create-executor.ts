// Owns composing an executor: which kernels attend and sample, and what identifies the results' bits.
import { createHash } from 'node:crypto';
import type { Ggml } from '../ffi/ggml.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import { cacheGroups } from '../models/config.ts';
import type { Model } from '../models/model.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { ComputePool } from '../tensor/compute.ts';
import { GgmlAttention } from './ggml-attention.ts';
import { GgmlExecutor } from './ggml-executor.ts';
import { HostSampler } from './sampler-path.ts';

/** `auto`: the best emitted kernels that this machine can run, else ggml. `ggml`: no emitted code at all. */
export type Kernels = 'auto' | 'avx512' | 'avx2' | 'ggml';

export interface CreateExecutorOptions {
  readonly ggml: Ggml;
  readonly model: Model;
  /** Over the model's cache groups: `cacheGroups(model.config, model.kvElement)`. */
  readonly space: KvSpace;
  readonly kernels: Kernels;
  readonly deterministic: boolean;
  readonly numThreads: number;
  /** Whether threads spin between steps: where all threads on this host do not outnumber its cores. */
  readonly polls: boolean;
  /** Rows of a step, at most. */
  readonly maxNumSeqs: number;
  readonly observe?: (plan: StepPlan, logits: Float32Array) => void;
}

/** The executor owns its threads and scratch; model and space stay the caller's, to be closed after it. */
export function createGgmlExecutor(options: CreateExecutorOptions): GgmlExecutor {
  const { ggml, model, space, deterministic, numThreads, polls, observe } = options;
  const { config, kvElement } = model;
  const groups = cacheGroups(config, kvElement);
  return new GgmlExecutor({
    ggml,
    model,
    space,
    deterministic,
    pool: new ComputePool(ggml, { numThreads, polls }),
    attention: new GgmlAttention({ config, groups, space, deterministic }),
    sampler: new HostSampler(config.vocabSize, config.numIds),
    ...(observe ? { observe } : {}),
  });
}

/** Engines of equal id compute the same bits, given equal weights. */
export function numericsId({ ggml, model, kernels, deterministic }: CreateExecutorOptions): string {
  const parts = [
    kernels,
    deterministic ? 'deterministic' : 'fast',
    ggml.version,
    ggml.commit,
    ggml.variant,
    model.weightTypes.join('+'),
    model.kvElement,
  ];
  return createHash('sha256').update(parts.join('|')).digest('hex').slice(0, 16);
}
