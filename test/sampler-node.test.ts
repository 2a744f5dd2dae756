// The emitted sampler as a node of a ggml graph, on a threadpool.
import { afterAll, expect, test } from 'vitest';
import { openGgml } from '../src/engine/ffi/ggml.ts';
import { viewMemory } from '../src/engine/ffi/koffi.ts';
import { allocateNative } from '../src/engine/ffi/memory.ts';
import { canExecute, loadCode } from '../src/engine/jit/asm/exec-memory.ts';
import { supportedIsas } from '../src/engine/jit/cpu-features.ts';
import { emitSampler } from '../src/engine/jit/kernels/sampler.ts';
import { resultElements, scratchBytes } from '../src/engine/jit/kernels/sampler-abi.ts';
import { sampleInTypeScript } from '../src/engine/sampler/fallback.ts';
import { sampleBlockBytes, writeSampleBlock } from '../src/engine/sampler/sample-block.ts';
import { readSampleResults } from '../src/engine/sampler/sample-results.ts';
import { outputKind } from '../src/engine/scheduler/plan.ts';
import { ComputePool } from '../src/engine/tensor/compute.ts';
import { Graph } from '../src/engine/tensor/graph.ts';
import { custom } from '../src/engine/tensor/ops.ts';

const [isa] = canExecute().ok ? supportedIsas() : [];
const numThreads = 3;
const closers: (() => void)[] = [];
afterAll(() => {
  for (const close of closers) close();
});

test.skipIf(!isa)('five outputs on three threads', () => {
  const [vocabSize, numIds, numOutputs] = [1003, 1000, 5];
  const ggml = openGgml();
  const pool = new ComputePool(ggml, { numThreads, polls: false });
  const code = loadCode([emitSampler(isa!)]);
  const logits = allocateNative(numOutputs * vocabSize * 4);
  const values = new Float32Array(logits.buffer, 0, numOutputs * vocabSize);
  for (let i = 0; i < values.length; i++) values[i] = 5 * Math.sin(i * i);
  const input = {
    outputKinds: Uint8Array.from({ length: numOutputs }, () => outputKind.sample),
    targetIds: new Int32Array(numOutputs).fill(-1),
    sampling: Array.from({ length: numOutputs }, (_, i) => ({
      temperature: i % 2,
      topK: 0,
      topP: 0.9,
      minP: 0,
      seed: 11n,
      position: i,
      edits: null,
      numLogprobs: 4,
    })),
  };
  const scratch = allocateNative(numThreads * scratchBytes(vocabSize));
  const block = allocateNative(sampleBlockBytes(input));
  const cell = allocateNative(8);
  new DataView(cell.buffer).setBigUint64(0, BigInt(block.address), true);
  writeSampleBlock(block.buffer, 0, input, {
    numIds,
    scratch: scratch.address,
    scratchBytes: scratchBytes(vocabSize),
  });

  const g = new Graph(ggml, 8);
  const source = g.leaf('F32', [numOutputs, vocabSize], logits.address);
  const shape = [numOutputs, resultElements(vocabSize)];
  const node = custom(g, 'I32', shape, [source], code.addresses[0]!, cell.address);
  const placed = g.finish([node]);
  const memory = allocateNative(placed.numBytes);
  placed.place(memory.address);
  closers.push(
    () => pool.close(),
    () => placed.free(),
    () => code.free(),
    ...[logits, scratch, block, cell, memory].map((native) => () => native.free()),
  );
  pool.runSync(g.handle);
  const results = new Int32Array(viewMemory(placed.dataOf(node), numOutputs * resultElements(vocabSize) * 4));
  expect(readSampleResults(input, { results, logits: values, vocabSize, numIds })).toEqual(
    sampleInTypeScript(input, values, vocabSize, numIds),
  );
});
