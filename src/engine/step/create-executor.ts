// Owns composing an executor: emitted program or ggml's graphs, and what identifies the results' bits.
import { createHash } from 'node:crypto';
import type { Ggml } from '../ffi/ggml.ts';
import type { CacheGroup } from '../kv/cache-group.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import { createGraphModel } from '../models/graph-model.ts';
import type { Model } from '../models/model.ts';
import { ModelProgram } from '../program/model-program.ts';
import { NUM_PRECISE_POSITIONS } from '../program/step-order.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { ComputePool } from '../tensor/compute.ts';
import { GgmlAttention } from './ggml-attention.ts';
import { GgmlExecutor } from './ggml-executor.ts';
import type { KernelChoice } from './kernel-choice.ts';
import { ProgramExecutor } from './program-executor.ts';

export interface CreateExecutorOptions {
  readonly ggml: Ggml;
  /** Loaded for the kernels of `choice`. */
  readonly model: Model;
  /** The model's: `cacheGroups(model.config, element)`. */
  readonly groups: readonly CacheGroup[];
  /** Over the groups. */
  readonly space: KvSpace;
  readonly choice: KernelChoice;
  readonly deterministic: boolean;
  readonly numThreads: number;
  /** Whether threads spin between steps: where all threads on this host do not outnumber its cores. */
  readonly polls: boolean;
  /** Of one step, at most. */
  readonly maxTokens: number;
  readonly maxOutputs: number;
  readonly maxPositions: number;
  readonly observe?: (plan: StepPlan, logits: Float32Array) => void;
}

export type LocalExecutor = GgmlExecutor | ProgramExecutor;

/** The executor owns its threads, code and scratch; model and space stay the caller's, to be closed after it. */
export function createExecutor(options: CreateExecutorOptions): LocalExecutor {
  const { ggml, model, groups, space, deterministic, choice, numThreads, polls, observe } = options;
  const { config } = model;
  const common = {
    model,
    space,
    choice,
    numericsId: numericsId(options),
    ...(observe ? { observe } : {}),
  };
  if (choice.kernels !== 'ggml') {
    return new ProgramExecutor({
      ...common,
      program: new ModelProgram({ ...options, isa: choice.kernels, team: { numThreads, polls } }),
    });
  }
  return new GgmlExecutor({
    ...common,
    ggml,
    pool: new ComputePool(ggml, { numThreads, polls }),
    deterministic,
    graphModel: createGraphModel(ggml, model),
    attention: new GgmlAttention({ config, groups, space, deterministic }),
  });
}

/** Executors of equal id compute the same bits from equal weights. */
function numericsId({ ggml, model, groups, choice, deterministic }: CreateExecutorOptions): string {
  const ofGgml = [deterministic ? 'deterministic' : 'fast', ggml.version, ggml.commit, ggml.variant];
  const parts = [
    choice.kernels,
    // Emitted kernels have no fast and loose setting.
    ...(choice.kernels === 'ggml' ? ofGgml : [`precise ${NUM_PRECISE_POSITIONS}`]),
    model.weightTypes.join('+'),
    groups.map(({ element }) => element).join('+'),
  ];
  return createHash('sha256').update(parts.join('|')).digest('hex').slice(0, 16);
}
