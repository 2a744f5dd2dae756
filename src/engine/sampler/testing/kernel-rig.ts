// Owns running the emitted sampler without a graph: two tensor headers, and memory that ends where the logits end.
import { koffi, viewMemory } from '../../ffi/koffi.ts';
import { MAP, mmap, mprotect, munmap, PAGE_BYTES, PROT } from '../../ffi/libc.ts';
import { allocateNative } from '../../ffi/memory.ts';
import { loadCode } from '../../jit/asm/exec-memory.ts';
import type { Isa } from '../../jit/cpu-features.ts';
import { tensorField } from '../../jit/kernels/abi.ts';
import { emitSampler } from '../../jit/kernels/sampler.ts';
import { resultElements, scratchBytes } from '../../jit/kernels/sampler-abi.ts';
import { interpret, type Region } from '../../jit/testing/interpreter.ts';
import { sampleBlockBytes, writeSampleBlock } from '../sample-block.ts';
import { readSampleResults } from '../sample-results.ts';
import type { SamplerInput, SamplerOutput } from '../sampler-task.ts';

type Kernel = (results: number, thread: number, numThreads: number, cell: number) => void;

/** Memory whose last byte lies before an unmapped page: reading past it kills the process. */
function guarded(numBytes: number): { address: number; buffer: ArrayBuffer; free: () => void } {
  const usable = Math.ceil(numBytes / PAGE_BYTES) * PAGE_BYTES;
  const base = mmap(usable + PAGE_BYTES, { prot: PROT.read | PROT.write, flags: MAP.private | MAP.anonymous });
  mprotect(base + usable, PAGE_BYTES, PROT.none);
  const address = base + usable - numBytes;
  return { address, buffer: viewMemory(address, numBytes), free: () => munmap(base, usable + PAGE_BYTES) };
}

const kernelType = koffi.proto('void xllm_test_sampler(uintptr_t, int, int, uintptr_t)');

export class KernelRig {
  readonly #call: (args: Parameters<Kernel>, regions: readonly Region[]) => void;
  readonly free: () => void;

  /** `interpreted`: without the CPU's help, and about 10,000 times slower. */
  constructor(isa: Isa, how: 'native' | 'interpreted') {
    const machineCode = emitSampler(isa);
    if (how === 'interpreted') {
      this.#call = (args, regions) => interpret(machineCode, args, regions);
      this.free = () => {};
      return;
    }
    const code = loadCode([machineCode]);
    const kernel = koffi.decode(BigInt(code.addresses[0]!), kernelType) as Kernel;
    this.#call = (args) => kernel(...args);
    this.free = () => code.free();
  }

  /** logits [O, V] are copied in; `numThreads` threads run one after the other. */
  sample(
    input: SamplerInput,
    logits: Float32Array,
    vocabSize: number,
    numIds: number,
    numThreads = 1,
  ): SamplerOutput & { readonly logitsAfter: Float32Array } {
    using rig = this.prepare(input, logits, vocabSize, numIds, numThreads);
    rig.run();
    return { ...rig.outputs(), logitsAfter: rig.logitsAfter() };
  }

  prepare(input: SamplerInput, logits: Float32Array, vocabSize: number, numIds: number, numThreads = 1) {
    const numOutputs = input.sampling.length;
    const logitsMemory = guarded(logits.byteLength);
    const native = new Float32Array(logitsMemory.buffer);
    native.set(logits);
    const resultsMemory = allocateNative(numOutputs * resultElements(vocabSize) * 4);
    const results = new Int32Array(resultsMemory.buffer, 0, numOutputs * resultElements(vocabSize)).fill(-1);
    const perThread = scratchBytes(vocabSize);
    const scratch = allocateNative(perThread * numThreads);
    new Float32Array(scratch.buffer).fill(Number.NaN);
    const block = allocateNative(sampleBlockBytes(input));
    writeSampleBlock(block.buffer, 0, input, { numIds, scratch: scratch.address, scratchBytes: perThread });

    const tensors = allocateNative(4096);
    const view = new DataView(tensors.buffer);
    const [resultTensor, logitsTensor, cell] = [0, 1024, 2048];
    const set = (at: number, value: number) => view.setBigUint64(at, BigInt(value), true);
    set(resultTensor + tensorField.src, tensors.address + logitsTensor);
    set(resultTensor + tensorField.data, resultsMemory.address);
    set(resultTensor + tensorField.nb + 8, resultElements(vocabSize) * 4);
    set(logitsTensor + tensorField.data, logitsMemory.address);
    set(logitsTensor + tensorField.nb + 8, vocabSize * 4);
    set(cell, block.address);
    const memories = [logitsMemory, resultsMemory, scratch, block, tensors];
    const regions = memories.map(({ address, buffer }) => ({ address, view: new DataView(buffer) }));
    const call = this.#call;
    return {
      run() {
        for (let thread = 0; thread < numThreads; thread++)
          call([tensors.address + resultTensor, thread, numThreads, tensors.address + cell], regions);
      },
      outputs: () => readSampleResults(input, { results, logits: native, vocabSize, numIds }),
      logitsAfter: () => native.slice(),
      [Symbol.dispose]() {
        for (const memory of memories) memory.free();
      },
    };
  }
}
