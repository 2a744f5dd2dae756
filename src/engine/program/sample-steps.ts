// Owns what the sampler op reads of each step.
import type { Address } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { scratchBytes } from '../jit/kernels/sampler-abi.ts';
import { sampleBlockBytes, writeSampleBlock } from '../sampler/sample-block.ts';
import type { SamplerInput } from '../sampler/sampler-task.ts';
import { GrowingBlock } from './growing-block.ts';

export class SampleSteps {
  readonly #cell: NativeMemory;
  readonly #scratch: NativeMemory;
  readonly #scratchBytes: number;
  readonly #block: GrowingBlock;
  readonly #numIds: number;

  /** `numIds`: ids that have a token; at most `vocabSize`. */
  constructor(vocabSize: number, numIds: number, numThreads: number) {
    this.#numIds = numIds;
    this.#cell = allocateNative(64);
    this.#scratchBytes = scratchBytes(vocabSize);
    this.#scratch = allocateNative(this.#scratchBytes * numThreads);
    this.#block = new GrowingBlock(this.#cell.buffer, 0);
  }

  /** Of the 8 bytes that hold the address of the step's sample block. */
  get cell(): Address {
    return this.#cell.address;
  }

  /** For the next step; none that uses this block may be running. */
  write(input: SamplerInput): void {
    writeSampleBlock(this.#block.writable(sampleBlockBytes(input)), 0, input, {
      numIds: this.#numIds,
      scratch: this.#scratch.address,
      scratchBytes: this.#scratchBytes,
    });
  }

  free(): void {
    this.#block.free();
    this.#scratch.free();
    this.#cell.free();
  }
}
