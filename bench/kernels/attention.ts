// Owns the measurement of emitted paged attention: one thread, beside the roofline and ggml's flash attention.
// node bench/kernels/attention.ts [--heads 9/3x64] [--element f16] [--isa avx512] [--only decode|prefill] [--no-ggml]
import { parseArgs } from 'node:util';
import { openGgml } from '../../src/engine/ffi/ggml.ts';
import { type Address, koffi } from '../../src/engine/ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../../src/engine/ffi/memory.ts';
import { loadCode } from '../../src/engine/jit/asm/exec-memory.ts';
import { emitFunction } from '../../src/engine/jit/asm/function.ts';
import { mem } from '../../src/engine/jit/asm/operands.ts';
import type { Gpr } from '../../src/engine/jit/asm/registers.ts';
import { type Isa, supportedIsas } from '../../src/engine/jit/cpu-features.ts';
import {
  countStep,
  headBytes,
  KV_OP_BYTES,
  type KvShape,
  pointStepCell,
  stepBlockBytes,
  writeAttentionOp,
  writeStepBlock,
} from '../../src/engine/jit/kernels/abi.ts';
import { attentionScratchBytes, emitAttentionOp } from '../../src/engine/jit/kernels/attention/attention.ts';
import { Lanes, NUM_LANES } from '../../src/engine/jit/kernels/lanes.ts';
import { opField } from '../../src/engine/jit/kernels/op.ts';
import { emitProgram, programBytes, writeProgram } from '../../src/engine/jit/kernels/program.ts';
import { ComputePool } from '../../src/engine/tensor/compute.ts';
import { Graph } from '../../src/engine/tensor/graph.ts';
import { flashAttention } from '../../src/engine/tensor/ops.ts';

const { values: flags } = parseArgs({
  options: {
    heads: { type: 'string', multiple: true },
    element: { type: 'string', default: 'f16' },
    isa: { type: 'string' },
    only: { type: 'string' },
    hot: { type: 'boolean', default: false },
    'no-ggml': { type: 'boolean', default: false },
  },
});
const isa = (flags.isa ?? supportedIsas()[0]) as Isa | undefined;
if (!isa) throw new Error('this CPU lacks AVX2');
const element = flags.element as KvShape['element'];
const blockTokens = 16;
const ggml = openGgml();
const pool = new ComputePool(ggml, { numThreads: 1, polls: false });
const programType = koffi.proto('void xllm_bench_program(int64_t dst, int ith, int nth, int64_t program)');
const loopType = koffi.proto('void xllm_bench_loop(int64_t address, int64_t count)');

/** Least time of one run, ms, over many that all take in turn: other processes disturb the least. */
function measure(runs: readonly (() => void)[]): number[] {
  const best = runs.map(() => Number.POSITIVE_INFINITY);
  const end = performance.now() + 600 * runs.length;
  for (let sample = 0; sample < 8 || (performance.now() < end && sample < 400); sample++) {
    for (const [i, run] of runs.entries()) {
      const start = performance.now();
      run();
      best[i] = Math.min(best[i] ?? 0, performance.now() - start);
    }
  }
  return best;
}

/** GB/s of reading memory, and GFLOP/s of multiply-adds, by one thread. */
function roofline(memory: NativeMemory): { gbPerSecond: number; gflops: number } {
  const code = loadCode([
    emitFunction('read', 2, (a, f) => {
      const [address, count] = f.args as [Gpr, Gpr];
      const lanes = new Lanes(a, isa ?? 'avx2');
      const sums = Array.from({ length: 4 }, () => lanes.take());
      const loop = a.here('read');
      for (let line = 0; line < 16; line++) {
        a.prefetcht1(mem(address, 4096 + 64 * line));
        lanes.op('vorps', sums[line % 4] ?? [], sums[line % 4] ?? [], mem(address, 64 * line));
      }
      a.add(address, 1024);
      a.sub(count, 1);
      a.jne(loop);
    }),
    emitFunction('multiply', 2, (a, f) => {
      const [, count] = f.args as [Gpr, Gpr];
      const lanes = new Lanes(a, isa ?? 'avx2');
      const factor = lanes.takeSplat();
      lanes.zero(factor);
      const sums = Array.from({ length: isa === 'avx512' ? 12 : 6 }, () => lanes.take());
      for (const sum of sums) lanes.zero(sum);
      const loop = a.here('multiply');
      for (const sum of sums) lanes.op('vfmadd231ps', sum, factor, factor);
      a.sub(count, 1);
      a.jne(loop);
    }),
  ]);
  const [read, multiply] = code.addresses.map((address) => koffi.decode(BigInt(address), loopType));
  const numBytes = memory.numBytes / 4 - 8192;
  const count = 1e6;
  const [readMs = 0, multiplyMs = 0] = measure([
    () => read(memory.address, Math.floor(numBytes / 1024)),
    () => multiply(0, count),
  ]);
  const perTurn = (isa === 'avx512' ? 12 : 6) * 2 * NUM_LANES;
  return { gbPerSecond: numBytes / readMs / 1e6, gflops: (perTurn * count) / multiplyMs / 1e6 };
}

const cacheMemory = allocateNative(768 * 1024 * 1024);
// Small numbers in every element type, different from each other; positive bytes as scales.
const bytes = new Uint8Array(cacheMemory.buffer);
for (let i = 0; i < bytes.length; i++) bytes[i] = (i & 1) === 0 ? (i * 2654435761) >>> 24 : 0x2c + ((i >> 1) & 3);
const { gbPerSecond, gflops } = roofline(cacheMemory);

interface Case {
  readonly heads: readonly [number, number, number];
  readonly context: number;
  readonly batch: number;
  readonly numTokens: number;
}

function run({ heads: [numHeads, numKvHeads, headDim], context, batch, numTokens }: Case): void {
  const shape: KvShape = { numHeads, numKvHeads, headDim, blockTokens, element, hasSoftCap: false };
  const blocks = Math.ceil(context / blockTokens);
  const keyBytes = numKvHeads * headBytes(shape);
  const layerBytes = 2 * keyBytes;
  // Layers that together are larger than the last cache, so that decoding reads from memory.
  const layers = numTokens > 1 || flags.hot ? 1 : Math.max(2, Math.ceil(2 ** 27 / (layerBytes * blocks * batch)));
  const pageBytes = Math.ceil((layers * layerBytes) / 4096) * 4096;
  const width = numHeads * headDim;
  const numRows = batch * numTokens;
  const query = allocateNative(numRows * width * 4);
  new Float32Array(query.buffer).forEach((_, i, all) => (all[i] = Math.sin(i)));
  const out = allocateNative(numRows * width * 4);
  const scratchBytes = attentionScratchBytes(shape);
  const scratch = allocateNative(scratchBytes);
  const opsAt = 64;
  const control = allocateNative(opsAt + layers * KV_OP_BYTES);
  const scale = headDim ** -0.5;
  for (let layer = 0; layer < layers; layer++) {
    writeAttentionOp(control.buffer, opsAt + layer * KV_OP_BYTES, {
      rows: control.address + 16,
      queries: { address: query.address, rowBytes: width * 4, headBytes: headDim * 4 },
      out: { address: out.address, rowBytes: width * 4 },
      stepCell: control.address + 8,
      keyOffset: layer * layerBytes,
      valueOffset: layer * layerBytes + keyBytes,
      pageBytes,
      window: null,
      scale,
      softCap: null,
      sinks: null,
      scratch: scratch.address,
      scratchBytes,
    });
  }
  const rows = Array.from({ length: batch }, (_, b) => ({
    firstPosition: context - numTokens,
    numTokens,
    segments: [{ address: cacheMemory.address + b * blocks * pageBytes, firstPosition: 0, numTokens: context }],
  }));
  const step = allocateNative(stepBlockBytes(countStep(shape, rows, numRows)));
  writeStepBlock(step.buffer, 0, shape, pageBytes, rows, numRows);
  pointStepCell(control.buffer, 8, step.address);
  new DataView(control.buffer).setBigInt64(16, BigInt(numRows), true);
  const code = loadCode([emitProgram(), emitAttentionOp(shape, isa ?? 'avx2')]);
  const [program = 0, kernel = 0] = code.addresses;
  const table = allocateNative(programBytes(layers));
  const ops = Array.from({ length: layers }, (_, i) => ({ kernel, block: control.address + opsAt + i * KV_OP_BYTES }));
  writeProgram(table.buffer, ops, { abort: control.address, stamps: 0 });
  const call = koffi.decode(BigInt(program), programType);
  const counters = new BigInt64Array(control.buffer);
  const ours = () => {
    for (let i = 0; i < layers; i++) {
      const at = (opsAt + i * KV_OP_BYTES) / 8;
      counters[at + opField.claimed / 8] = 0n;
      counters[at + opField.finished / 8] = 0n;
    }
    call(0, 0, 1, table.address);
  };
  const withGgml = batch === 1 && element === 'f16' && !flags['no-ggml'];
  const theirs = withGgml ? [flashAttentionRun(shape, query.address, context, numTokens, layers, scale)] : [];
  const [ms = 0, ggmlMs] = measure([ours, ...theirs]);
  const flops = 4 * width * numRows * (context - (numTokens - 1) / 2) * layers;
  const readBytes = layerBytes * blocks * batch * layers;
  const percent = (part: number) => `${(100 * part).toFixed(0)} %`.padStart(5);
  const [gflopsHere, gbHere] = [flops / ms / 1e6, readBytes / ms / 1e6];
  console.log(
    `${numHeads}/${numKvHeads}x${headDim}`.padEnd(10),
    (numTokens === 1 ? `decode ${batch} at ${context}` : `prefill ${numTokens}`).padEnd(18),
    `${((ms / layers) * 1000).toFixed(0)} us`.padStart(9),
    `${gflopsHere.toFixed(1)} GFLOP/s`.padStart(15),
    percent(gflopsHere / gflops),
    `${gbHere.toFixed(1)} GB/s`.padStart(11),
    percent(gbHere / gbPerSecond),
    ggmlMs === undefined ? '' : `  ggml ${((ggmlMs / layers) * 1000).toFixed(0)} us: ${(ggmlMs / ms).toFixed(2)}x`,
  );
  for (const memory of [query, out, scratch, control, step, table]) memory.free();
  code.free();
}

/** The same work by ggml, over a dense cache. */
function flashAttentionRun(
  { numHeads, numKvHeads, headDim }: KvShape,
  query: Address,
  context: number,
  numTokens: number,
  layers: number,
  scale: number,
): () => void {
  const g = new Graph(ggml, 6 * layers + 16);
  const mask = allocateNative(context * Math.max(numTokens, 64) * 2);
  const maskHalves = new Uint16Array(mask.buffer);
  for (let t = 0; t < numTokens; t++) {
    for (let p = 0; p < context; p++) maskHalves[t * context + p] = p <= context - numTokens + t ? 0 : 0xfc00;
  }
  const keyBytes = context * numKvHeads * headDim * 2;
  const outputs = [];
  for (let layer = 0; layer < layers; layer++) {
    const at = cacheMemory.address + layer * 2 * keyBytes;
    const strides = [numKvHeads * context * headDim * 2, context * headDim * 2, headDim * 2, 2];
    const k = g.leaf('F16', [1, numKvHeads, context, headDim], at, strides);
    const v = g.leaf('F16', [1, numKvHeads, context, headDim], at + keyBytes, strides);
    const q = g.leaf('F32', [1, numHeads, numTokens, headDim], query, [
      numTokens * numHeads * headDim * 4,
      headDim * 4,
      numHeads * headDim * 4,
      4,
    ]);
    outputs.push(flashAttention(g, q, k, v, g.leaf('F16', [1, 1, numTokens, context], mask.address), scale));
  }
  const placed = g.finish(outputs);
  placed.place(allocateNative(placed.numBytes).address);
  return () => pool.runSync(g.handle);
}

console.log(
  `${isa} ${element}: roofline of one thread ${gflops.toFixed(0)} GFLOP/s, ${gbPerSecond.toFixed(1)} GB/s;`,
  `ggml ${ggml.version} (${ggml.variant})`,
);
const shapes = (flags.heads ?? ['9/3x64', '16/8x128', '16/2x128']).map((text) => text.split(/[/x]/).map(Number));
for (const heads of shapes as [number, number, number][]) {
  if (flags.only !== 'prefill') {
    for (const batch of [1, 16]) for (const context of [256, 2048]) run({ heads, context, batch, numTokens: 1 });
  }
  if (flags.only !== 'decode') for (const context of [512, 2048]) run({ heads, context, batch: 1, numTokens: context });
}
pool.close();
