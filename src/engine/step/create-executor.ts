// Owns composing an executor: which kernels attend and sample, and what identifies the results' bits.
import { createHash } from 'node:crypto';
import type { Ggml } from '../ffi/ggml.ts';
import type { KvShape } from '../jit/kernels/abi.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import { cacheGroups } from '../models/config.ts';
import type { Model } from '../models/model.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { ComputePool } from '../tensor/compute.ts';
import { GgmlAttention } from './ggml-attention.ts';
import { GgmlExecutor } from './ggml-executor.ts';
import { KernelAttention, kvShapes } from './kernel-attention.ts';
import { chooseKernels, type KernelChoice, type Kernels, loadKernels } from './kernel-code.ts';
import { KernelSampler } from './kernel-sampler.ts';
import { HostSampler } from './sampler-path.ts';

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
  readonly observe?: (plan: StepPlan, logits: Float32Array) => void;
}

/** The executor owns its threads, code and scratch; model and space stay the caller's, to be closed after it. */
export function createGgmlExecutor(options: CreateExecutorOptions): GgmlExecutor {
  const { ggml, model, space, deterministic, numThreads, polls, observe } = options;
  const { config, kvElement } = model;
  const { vocabSize, numIds } = config;
  const groups = cacheGroups(config, kvElement);
  const shapes = shapesOf(options);
  const choice = choose(options);
  const common = {
    ggml,
    model,
    space,
    deterministic,
    choice,
    numericsId: numericsId(options),
    pool: new ComputePool(ggml, { numThreads, polls }),
    ...(observe ? { observe } : {}),
  };
  if (choice.kernels === 'ggml') {
    return new GgmlExecutor({
      ...common,
      attention: new GgmlAttention({ config, groups, space, deterministic }),
      sampler: new HostSampler(vocabSize, numIds),
      close: () => {},
    });
  }
  const code = loadKernels(choice.kernels, shapes);
  return new GgmlExecutor({
    ...common,
    attention: new KernelAttention({ config, groups, shapes, space, code, numThreads }),
    sampler: new KernelSampler({ kernel: code.sampler, vocabSize, numIds, numThreads }),
    close: () => code.free(),
  });
}

function shapesOf({ model, space }: CreateExecutorOptions): KvShape[] {
  return kvShapes(model.config, cacheGroups(model.config, model.kvElement), space.layouts);
}

function choose(options: CreateExecutorOptions): KernelChoice {
  return chooseKernels(options.kernels, shapesOf(options));
}

/** Executors of equal id compute the same bits from equal weights. */
function numericsId(options: CreateExecutorOptions): string {
  const { ggml, model, deterministic } = options;
  const parts = [
    choose(options).kernels,
    model.products,
    // Emitted kernels have no fast and loose setting: only products of float weights and ggml's attention do.
    deterministic ? 'deterministic' : 'fast',
    ggml.version,
    ggml.commit,
    ggml.variant,
    model.weightTypes.join('+'),
    model.kvElement,
  ];
  return createHash('sha256').update(parts.join('|')).digest('hex').slice(0, 16);
}
