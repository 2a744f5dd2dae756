// Owns sampling inside the graph: one emitted node after the head.
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { Address } from '../ffi/koffi.ts';
import { resultElements, scratchBytes } from '../jit/kernels/sampler-abi.ts';
import { sampleBlockBytes, writeSampleBlock } from '../sampler/sample-block.ts';
import { readSampleResults } from '../sampler/sample-results.ts';
import type { SamplerOutput } from '../sampler/sampler-task.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import type { Graph } from '../tensor/graph.ts';
import { custom } from '../tensor/ops.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { SamplerPath } from './sampler-path.ts';
import { SwitchedBlock } from './switched-block.ts';

export interface KernelSamplerOptions {
  readonly kernel: Address;
  readonly vocabSize: number;
  /** Ids that have a token; at most `vocabSize`. */
  readonly numIds: number;
  readonly numThreads: number;
}

export class KernelSampler implements SamplerPath {
  readonly #options: KernelSamplerOptions;
  readonly #cell: NativeMemory;
  readonly #scratch: NativeMemory;
  readonly #block: SwitchedBlock;

  constructor(options: KernelSamplerOptions) {
    this.#options = options;
    this.#cell = allocateNative(64);
    this.#scratch = allocateNative(scratchBytes(options.vocabSize) * options.numThreads);
    this.#block = new SwitchedBlock(this.#cell.buffer, 0);
  }

  build(g: Graph, logits: Tensor): Tensor {
    const { kernel, vocabSize } = this.#options;
    const [numOutputs] = logits.shape as [number];
    return custom(g, 'I32', [numOutputs, resultElements(vocabSize)], [logits], kernel, this.#cell.address);
  }

  prepare(plan: StepPlan): void {
    const { numIds, vocabSize } = this.#options;
    writeSampleBlock(this.#block.writable(sampleBlockBytes(plan)), 0, plan, {
      numIds,
      scratch: this.#scratch.address,
      scratchBytes: scratchBytes(vocabSize),
    });
  }

  start(): void {
    this.#block.publish();
  }

  read(plan: StepPlan, logits: Float32Array, results: Int32Array): SamplerOutput {
    const { vocabSize, numIds } = this.#options;
    return readSampleResults(plan, { results, logits, vocabSize, numIds });
  }

  close(): void {
    this.#block.free();
    this.#scratch.free();
    this.#cell.free();
  }
}
