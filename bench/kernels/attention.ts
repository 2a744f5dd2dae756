// Owns the measurement of emitted paged attention: beside the roofline and ggml's flash attention.
// node bench/kernels/attention.ts [--threads 1] [--heads 9/3x64] [--element f16] [--isa avx512] [--only decode|prefill]
//   [--no-ggml] [--hot]     --hot: decode over keys and values that stay in the caches
import { parseArgs } from 'node:util';
import { openGgml } from '../../src/engine/ffi/ggml.ts';
import type { Address } from '../../src/engine/ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../../src/engine/ffi/memory.ts';
import { loadCode } from '../../src/engine/jit/asm/exec-memory.ts';
import { mem } from '../../src/engine/jit/asm/operands.ts';
import type { MachineCode } from '../../src/engine/jit/asm/program.ts';
import { rax } from '../../src/engine/jit/asm/registers.ts';
import { type Isa, supportedIsas } from '../../src/engine/jit/cpu-features.ts';
import { headBytes, KV_OP_BYTES, type KvShape, writeAttentionOp } from '../../src/engine/jit/kernels/abi.ts';
import { attentionScratchBytes, emitAttentionOp } from '../../src/engine/jit/kernels/attention/attention.ts';
import { Lanes, NUM_LANES } from '../../src/engine/jit/kernels/lanes.ts';
import { emitOp, OP_FIELDS, OpBlock, opField, ROWS_BYTES, rowsField } from '../../src/engine/jit/kernels/op.ts';
import { programBytes, writeProgram } from '../../src/engine/jit/kernels/program.ts';
import { countStep, pointStepCell, stepBlockBytes, writeStepBlock } from '../../src/engine/jit/kernels/step-block.ts';
import { ThreadTeam } from '../../src/engine/program/thread-team.ts';
import { ComputePool } from '../../src/engine/tensor/compute.ts';
import { Graph } from '../../src/engine/tensor/graph.ts';
import { flashAttention } from '../../src/engine/tensor/ops.ts';

const { values: flags } = parseArgs({
  options: {
    heads: { type: 'string', multiple: true },
    element: { type: 'string', default: 'f16' },
    isa: { type: 'string' },
    seconds: { type: 'string', default: '1' },
    threads: { type: 'string', default: '1' },
    only: { type: 'string' },
    hot: { type: 'boolean', default: false },
    'no-ggml': { type: 'boolean', default: false },
  },
});
const numThreads = Number(flags.threads);
const isa = (flags.isa ?? supportedIsas()[0]) as Isa;
if (!isa) throw new Error('this CPU lacks AVX2');
const element = flags.element as KvShape['element'];
const blockTokens = 16;
const ggml = openGgml();
const pool = new ComputePool(ggml, { numThreads, polls: numThreads > 1 });
const team = new ThreadTeam({ numThreads, polls: true });

/** Runs one after the other some of many alike pieces of work; returns how many. */
type Run = () => number;

/** Least time of one piece of work, ms, over many short runs that all take in turn: other processes disturb the least. */
function measure(runs: readonly Run[]): number[] {
  const best = runs.map(() => Number.POSITIVE_INFINITY);
  const end = performance.now() + Number(flags.seconds) * 1000 * runs.length;
  for (let sample = 0; sample < 8 || performance.now() < end; sample++) {
    for (const [i, run] of runs.entries()) {
      const start = performance.now();
      const count = run();
      best[i] = Math.min(best[i] ?? 0, (performance.now() - start) / count);
    }
  }
  return best;
}

/**
 * Runs the ops of one kernel by all threads, `perRun` at a time, in turn. `blocks`: op blocks, `stride` apart. Nothing is
 * ever freed: threads may look at a step after its end.
 */
function program(
  kernel: MachineCode,
  blocks: NativeMemory,
  rows: NativeMemory,
  from: number,
  stride: number,
  numOps: number,
  perRun = 1,
) {
  const code = loadCode([kernel]);
  const address = code.addresses[0] ?? 0;
  const table = allocateNative(programBytes(perRun));
  let next = 0;
  const run: Run = () => {
    const starts = Array.from({ length: perRun }, () => from + stride * (next++ % numOps));
    new BigInt64Array(rows.buffer)[rowsField.generation / 8] = BigInt(team.nextGeneration);
    const ops = starts.map((at) => ({ kernel: address, block: blocks.address + at }));
    writeProgram(table.buffer, ops, { abort: zero.address, stamps: 0 });
    team.runSync(table.address);
    return perRun;
  };
  return run;
}

/** GB/s of reading memory, and GFLOP/s of multiply-adds. */
function roofline(memory: NativeMemory): { gbPerSecond: number; gflops: number } {
  const [pieces, lines, turns, numOps] = [16, 2 ** 14, 1000, 48];
  const read = emitOp(
    'read',
    ({ a }) => a.mov(rax, pieces),
    ({ a, f, op }) => {
      const [address, count] = [f.gpr(), f.gpr()];
      const lanes = new Lanes(a, isa);
      const sums = Array.from({ length: 4 }, () => lanes.take());
      a.imul3(address, rax, lines * 64);
      a.add(address, mem(op, OP_FIELDS));
      a.mov(count, lines / 16);
      const loop = a.here('read');
      for (let line = 0; line < 16; line++) {
        a.prefetcht1(mem(address, 4096 + 64 * line));
        lanes.op('vorps', sums[line % 4] ?? [], sums[line % 4] ?? [], mem(address, 64 * line));
      }
      a.add(address, 1024);
      a.sub(count, 1);
      a.jne(loop);
      f.release(address, count);
    },
  );
  const numSums = isa === 'avx512' ? 12 : 6;
  const multiply = emitOp(
    'multiply',
    ({ a }) => a.mov(rax, pieces),
    ({ a, f }) => {
      const count = f.gpr();
      const lanes = new Lanes(a, isa);
      const factor = lanes.takeSplat();
      const sums = Array.from({ length: numSums }, () => lanes.take());
      for (const wide of [factor, ...sums]) lanes.zero(wide);
      a.mov(count, turns);
      const loop = a.here('multiply');
      for (const sum of sums) lanes.op('vfmadd231ps', sum, factor, factor);
      a.sub(count, 1);
      a.jne(loop);
      f.release(count);
    },
  );
  const rows = allocateNative(ROWS_BYTES);
  new DataView(rows.buffer).setBigInt64(0, 1n, true);
  const blocks = allocateNative(64 + numOps * 192);
  for (let i = 0; i < numOps; i++) {
    const block = new OpBlock(blocks.buffer, 64 + i * 192, 192);
    block.set(opField.rows, rows.address);
    block.set(OP_FIELDS, memory.address + i * pieces * lines * 64);
  }
  const runs = [read, multiply].map((kernel) => program(kernel, blocks, rows, 64, 192, numOps));
  const [readMs = 0, multiplyMs = 0] = measure(runs);
  return {
    gbPerSecond: (pieces * lines * 64) / readMs / 1e6,
    gflops: (pieces * turns * numSums * 2 * NUM_LANES) / multiplyMs / 1e6,
  };
}

const zero = allocateNative(4096);
/** Of a model, where memory allows: they say how far apart the pages' parts of one layer lie. */
const NUM_LAYERS = 28;
const cacheMemory = allocateNative(2 ** 30);
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
  const numLayers = Math.min(NUM_LAYERS, Math.floor(cacheMemory.numBytes / (layerBytes * blocks * batch)) - 1);
  const pageBytes = Math.ceil((numLayers * layerBytes) / 4096) * 4096;
  // Batches whose keys and values together are larger than the last cache, so that decoding reads from memory.
  const batchBytes = pageBytes * blocks * batch;
  const numBatches = numTokens > 1 || flags.hot ? 1 : Math.ceil(2 ** 27 / batchBytes);
  const layers = numTokens > 1 || flags.hot ? 1 : numLayers;
  const width = numHeads * headDim;
  const numRows = batch * numTokens;
  const query = allocateNative(numRows * width * 4);
  new Float32Array(query.buffer).forEach((_, i, all) => (all[i] = Math.sin(i)));
  const out = allocateNative(numRows * width * 4);
  const scratchBytes = attentionScratchBytes(shape);
  const scratch = allocateNative(scratchBytes * numThreads);
  /** The number of rows, the step cells, then the ops: of one batch after the other. */
  const cellsAt = 64;
  const opsAt = cellsAt + Math.ceil(numBatches / 8) * 64;
  const numOps = numBatches * layers;
  const control = allocateNative(opsAt + numOps * KV_OP_BYTES);
  const scale = headDim ** -0.5;
  new DataView(control.buffer).setBigInt64(0, BigInt(numRows), true);
  for (let i = 0; i < numBatches; i++) {
    const rows = Array.from({ length: batch }, (_, b) => ({
      firstPosition: context - numTokens,
      numTokens,
      segments: [
        {
          address: cacheMemory.address + (i * batch + b) * blocks * pageBytes,
          firstPosition: 0,
          numTokens: context,
        },
      ],
    }));
    const step = allocateNative(stepBlockBytes(countStep(shape, rows)));
    writeStepBlock(step.buffer, 0, shape, pageBytes, rows);
    pointStepCell(control.buffer, cellsAt + i * 8, step.address);
    for (let layer = 0; layer < layers; layer++) {
      writeAttentionOp(control.buffer, opsAt + (i * layers + layer) * KV_OP_BYTES, {
        rows: control.address,
        queries: { address: query.address, rowBytes: width * 4, headBytes: headDim * 4 },
        out: { address: out.address, rowBytes: width * 4 },
        stepCell: control.address + cellsAt + i * 8,
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
  }
  const flops = 4 * width * numRows * (context - (numTokens - 1) / 2);
  // Runs of some 300 us: few of them are interrupted.
  const perRun = Math.max(1, Math.min(numOps, Math.round(2e7 / flops)));
  const ours = program(emitAttentionOp(shape, isa), control, control, opsAt, KV_OP_BYTES, numOps, perRun);
  const withGgml = batch === 1 && element === 'f16' && !flags['no-ggml'];
  const theirs = withGgml ? [flashAttentionRun(shape, query.address, context, numTokens, scale)] : [];
  const [ms = 0, ggmlMs] = measure([ours, ...theirs]);
  const readBytes = layerBytes * blocks * batch;
  const percent = (part: number) => `${(100 * part).toFixed(0)} %`.padStart(5);
  const [gflopsHere, gbHere] = [flops / ms / 1e6, readBytes / ms / 1e6];
  console.log(
    `${numHeads}/${numKvHeads}x${headDim}`.padEnd(10),
    (numTokens === 1 ? `decode ${batch} at ${context}` : `prefill ${numTokens}`).padEnd(18),
    `${(ms * 1000).toFixed(0)} us`.padStart(9),
    `${gflopsHere.toFixed(1)} GFLOP/s`.padStart(15),
    percent(gflopsHere / gflops),
    `${gbHere.toFixed(1)} GB/s`.padStart(11),
    percent(gbHere / gbPerSecond),
    ggmlMs === undefined ? '' : `  ggml ${(ggmlMs * 1000).toFixed(0)} us: ${(ggmlMs / ms).toFixed(2)}x`,
  );
}

/** The same work by ggml, over a dense cache. */
function flashAttentionRun(
  { numHeads, numKvHeads, headDim }: KvShape,
  query: Address,
  context: number,
  numTokens: number,
  scale: number,
): Run {
  const bytes = 4 * context * numKvHeads * headDim;
  const layers = numTokens > 1 || flags.hot ? 1 : Math.max(2, Math.ceil(2 ** 27 / bytes));
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
  return () => {
    pool.runSync(g.handle);
    return layers;
  };
}

console.log(
  `${isa} ${element}: roofline of ${numThreads} threads ${gflops.toFixed(0)} GFLOP/s, ${gbPerSecond.toFixed(1)} GB/s;`,
  `ggml ${ggml.version} (${ggml.variant})`,
);
const shapes = (flags.heads ?? ['9/3x64', '16/8x128', '16/2x128']).map((text) => text.split(/[/x]/).map(Number));
for (const heads of shapes as [number, number, number][]) {
  if (flags.only !== 'prefill') {
    for (const batch of [1, 16]) for (const context of [256, 2048]) run({ heads, context, batch, numTokens: 1 });
  }
  if (flags.only !== 'decode') for (const context of [512, 2048]) run({ heads, context, batch: 1, numTokens: context });
}
team.close();
pool.close();
