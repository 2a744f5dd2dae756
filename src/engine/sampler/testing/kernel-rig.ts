// Owns running the emitted sampler without a graph: an op block, and memory that ends where the logits end.
import { koffi, viewMemory } from '../../ffi/koffi.ts';
import { MAP, mmap, mprotect, munmap, PAGE_BYTES, PROT } from '../../ffi/libc.ts';
import { allocateNative } from '../../ffi/memory.ts';
import { loadCode } from '../../jit/asm/exec-memory.ts';
import type { Isa } from '../../jit/cpu-features.ts';
import { OpBlock, opField } from '../../jit/kernels/op.ts';
import { emitSampler, SAMPLER_OP_BYTES, writeSamplerOp } from '../../jit/kernels/sampler.ts';
import { resultElements, scratchBytes } from '../../jit/kernels/sampler-abi.ts';
import { interpret, type Region } from '../../jit/testing/interpreter.ts';
import { sampleBlockBytes, writeSampleBlock } from '../sample-block.ts';
import { readSampleResults } from '../sample-results.ts';
import type { SamplerInput, SamplerOutput } from '../sampler-task.ts';

type Kernel = (op: number, thread: number, numThreads: number) => number;

/** Memory whose last byte lies before an unmapped page: reading past it kills the process. */
function guarded(numBytes: number): { address: number; buffer: ArrayBuffer; free: () => void } {
  const usable = Math.ceil(numBytes / PAGE_BYTES) * PAGE_BYTES;
  const base = mmap(usable + PAGE_BYTES, { prot: PROT.read | PROT.write, flags: MAP.private | MAP.anonymous });
  mprotect(base + usable, PAGE_BYTES, PROT.none);
  const address = base + usable - numBytes;
  return { address, buffer: viewMemory(address, numBytes), free: () => munmap(base, usable + PAGE_BYTES) };
}

const kernelType = koffi.proto('int64_t xllm_test_sampler(uintptr_t, int64_t, int64_t)');

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

    const words = allocateNative(4096);
    const view = new DataView(words.buffer);
    const [opAt, cell, rows] = [0, 2048, 2056];
    view.setBigUint64(cell, BigInt(block.address), true);
    view.setBigUint64(rows, BigInt(numOutputs), true);
    const op = new OpBlock(words.buffer, opAt, SAMPLER_OP_BYTES);
    op.set(opField.rows, words.address + rows);
    writeSamplerOp(op, {
      cell: words.address + cell,
      logits: logitsMemory.address,
      logitsRowBytes: vocabSize * 4,
      results: resultsMemory.address,
      resultsRowBytes: resultElements(vocabSize) * 4,
    });
    const memories = [logitsMemory, resultsMemory, scratch, block, words];
    const regions = memories.map(({ address, buffer }) => ({ address, view: new DataView(buffer) }));
    const call = this.#call;
    return {
      run() {
        view.setBigUint64(opField.claimed, 0n, true);
        view.setBigUint64(opField.finished, 0n, true);
        for (let thread = 0; thread < numThreads; thread++) call([words.address + opAt, thread, numThreads], regions);
      },
      outputs: () => readSampleResults(input, { results, logits: native, vocabSize, numIds }),
      logitsAfter: () => native.slice(),
      [Symbol.dispose]() {
        for (const memory of memories) memory.free();
      },
    };
  }
}
