// Owns the seam between a step and the two ways to sample: an emitted node in the graph, or TypeScript after it.
import { sampleInTypeScript } from '../sampler/fallback.ts';
import type { SamplerOutput } from '../sampler/sampler-task.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import type { Graph } from '../tensor/graph.ts';
import type { Tensor } from '../tensor/tensor.ts';

export interface SamplerPath {
  /** Adds what samples from logits [O,V]; null: nothing. The result is handed to `read`. */
  build(g: Graph, logits: Tensor): Tensor | null;
  /** May run while the previous step does. */
  prepare(plan: StepPlan): void;
  /** Right before the prepared plan's graph runs. */
  start(plan: StepPlan): void;
  /** logits [≥ O,V] and what the built node left, after the run. */
  read(plan: StepPlan, logits: Float32Array, results: Int32Array): SamplerOutput;
  close(): void;
}

/** Samples on the event loop's thread: slow for large vocabularies, but it needs no emitted code. */
export class HostSampler implements SamplerPath {
  readonly #vocabSize: number;
  readonly #numIds: number;

  /** `numIds`: ids that have a token; at most `vocabSize`. */
  constructor(vocabSize: number, numIds: number) {
    this.#vocabSize = vocabSize;
    this.#numIds = numIds;
  }

  build(): null {
    return null;
  }

  prepare(): void {}

  start(): void {}

  read(plan: StepPlan, logits: Float32Array): SamplerOutput {
    return sampleInTypeScript(plan, logits, this.#vocabSize, this.#numIds);
  }

  close(): void {}
}
