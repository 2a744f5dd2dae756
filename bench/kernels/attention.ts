// Owns the measurement of emitted paged attention against ggml's flash attention: same numbers, one thread, CPU time.
// node bench/kernels/attention.ts [--hot]     --hot: one decoded token over keys that stay in the caches
import { openGgml } from '../../src/engine/ffi/ggml.ts';
import { allocateNative } from '../../src/engine/ffi/memory.ts';
import { loadCode } from '../../src/engine/jit/asm/exec-memory.ts';
import { supportedIsas } from '../../src/engine/jit/cpu-features.ts';
import {
  countStep,
  type KvShape,
  NODE_BLOCK_BYTES,
  pointStepCell,
  stepBlockBytes,
  writeNodeBlock,
  writeStepBlock,
} from '../../src/engine/jit/kernels/abi.ts';
import { attentionScratchBytes, emitAttention } from '../../src/engine/jit/kernels/attention/attention.ts';
import { ComputePool } from '../../src/engine/tensor/compute.ts';
import { Graph } from '../../src/engine/tensor/graph.ts';
import { custom, flashAttention } from '../../src/engine/tensor/ops.ts';

const ggml = openGgml();
const isa = supportedIsas()[0];
if (!isa) throw new Error('this CPU lacks AVX2');
const pool = new ComputePool(ggml, { numThreads: 1, polls: false });
const blockTokens = 16;
const isHot = process.argv.includes('--hot');

/** Layers that together are larger than the last cache, so that decoding reads from memory. */
function numLayers(bytes: number): number {
  return Math.max(2, Math.ceil((96 * 1024 * 1024) / bytes));
}

/** Halves of moderate size, different from each other. */
function someHalves(numBytes: number) {
  const memory = allocateNative(numBytes);
  const halves = new Uint16Array(memory.buffer);
  for (let i = 0; i < halves.length; i++) halves[i] = 0x3000 + ((i * 2654435761) >>> 20) + ((i & 1) << 15);
  return memory;
}

/** Least CPU time of one run, ms, over samples of about 20 ms that both take in turn: other processes disturb less. */
function measure(runs: readonly (() => void)[]): number[] {
  const cpuMs = (run: () => void, times: number): number => {
    const start = process.threadCpuUsage();
    for (let i = 0; i < times; i++) run();
    const { user, system } = process.threadCpuUsage(start);
    return (user + system) / 1000 / times;
  };
  const times = runs.map((run) => Math.ceil(20 / Math.max(0.01, Math.min(cpuMs(run, 2), cpuMs(run, 2)))));
  const best = runs.map(() => Number.POSITIVE_INFINITY);
  for (let sample = 0; sample < 12; sample++) {
    for (const [i, run] of runs.entries()) best[i] = Math.min(best[i] ?? 0, cpuMs(run, times[i] ?? 1));
  }
  return best;
}

function compare(numHeads: number, numKvHeads: number, headDim: number, context: number, numTokens: number): void {
  const shape: KvShape = { numHeads, numKvHeads, headDim, blockTokens, element: 'f16', hasSoftCap: false };
  const keyBytes = context * numKvHeads * headDim * 2;
  const layers = numTokens > 1 || isHot ? 1 : numLayers(2 * keyBytes);
  const scale = headDim ** -0.5;
  const query = allocateNative(numTokens * numHeads * headDim * 4);
  new Float32Array(query.buffer).forEach((_, i, all) => (all[i] = Math.sin(i)));

  const control = allocateNative((layers + 1) * NODE_BLOCK_BYTES);
  const scratchBytes = attentionScratchBytes(shape);
  const scratch = allocateNative(scratchBytes);
  const pageBytes = Math.ceil((2 * layers * keyBytes * blockTokens) / context / 4096) * 4096;
  const cell = layers * NODE_BLOCK_BYTES;
  const cache = someHalves((context / blockTokens) * pageBytes);
  for (let layer = 0; layer < layers; layer++) {
    const keyOffset = layer * 2 * numKvHeads * headDim * blockTokens * 2;
    writeNodeBlock(control.buffer, layer * NODE_BLOCK_BYTES, {
      stepCell: control.address + cell,
      keyOffset,
      valueOffset: keyOffset + numKvHeads * headDim * blockTokens * 2,
      pageBytes,
      window: null,
      scale,
      softCap: null,
      scratch: scratch.address,
      scratchBytes,
    });
  }
  const rows = [
    {
      firstPosition: context - numTokens,
      numTokens,
      segments: [{ address: cache.address, firstPosition: 0, numTokens: context }],
    },
  ];
  const step = allocateNative(stepBlockBytes(countStep(shape, rows, numTokens)));
  writeStepBlock(step.buffer, 0, shape, pageBytes, rows, numTokens);
  pointStepCell(control.buffer, cell, step.address);
  const code = loadCode([emitAttention(shape, isa ?? 'avx2')]);

  const graphs = [0, 1].map((which) => {
    const g = new Graph(ggml, 4 * layers + 16);
    const mask = allocateNative(context * Math.max(numTokens, 64) * 2);
    const maskHalves = new Uint16Array(mask.buffer);
    for (let t = 0; t < numTokens; t++) {
      for (let p = 0; p < context; p++) maskHalves[t * context + p] = p <= context - numTokens + t ? 0 : 0xfc00;
    }
    const outputs = [];
    for (let layer = 0; layer < layers; layer++) {
      if (which === 0) {
        const q = g.leaf('F32', [numTokens, numHeads, headDim], query.address);
        const node = control.address + layer * NODE_BLOCK_BYTES;
        outputs.push(custom(g, 'F32', [numTokens, numHeads * headDim], [q], code.addresses[0] ?? 0, node));
      } else {
        const at = cache.address + layer * 2 * keyBytes;
        const strides = [numKvHeads * context * headDim * 2, context * headDim * 2, headDim * 2, 2];
        const k = g.leaf('F16', [1, numKvHeads, context, headDim], at, strides);
        const v = g.leaf('F16', [1, numKvHeads, context, headDim], at + keyBytes, strides);
        const q = g.leaf('F32', [1, numHeads, numTokens, headDim], query.address, [
          numTokens * numHeads * headDim * 4,
          headDim * 4,
          numHeads * headDim * 4,
          4,
        ]);
        outputs.push(flashAttention(g, q, k, v, g.leaf('F16', [1, 1, numTokens, context], mask.address), scale));
      }
    }
    const placed = g.finish(outputs);
    placed.place(allocateNative(placed.numBytes).address);
    return g;
  });
  const [ours = 0, theirs = 0] = measure(graphs.map((g) => () => pool.runSync(g.handle)));
  const flops = 4 * numHeads * headDim * numTokens * (context - (numTokens - 1) / 2) * layers;
  const bytes = 2 * keyBytes * layers;
  const figures = [
    `${numHeads}/${numKvHeads}x${headDim}`.padEnd(10),
    `context ${context}`.padEnd(14),
    `tokens ${numTokens}`.padEnd(11),
    `ours ${((ours / layers) * 1000).toFixed(0)} us`.padEnd(16),
    `ggml ${((theirs / layers) * 1000).toFixed(0)} us`.padEnd(16),
    `ratio ${(theirs / ours).toFixed(2)}`.padEnd(12),
    `${(flops / ours / 1e6).toFixed(1)} GFLOP/s, ${(bytes / ours / 1e6).toFixed(1)} GB/s`,
  ];
  console.log(figures.join(' '));
}

console.log(`${isa}, ggml ${ggml.version} (${ggml.variant})`);
for (const [heads, kvHeads, dim] of [
  [9, 3, 64],
  [16, 8, 128],
  [8, 8, 128],
] as const) {
  for (const context of isHot ? [16, 128, 512, 1024] : [512, 4096]) {
    for (const tokens of isHot ? [1] : [1, 512]) compare(heads, kvHeads, dim, context, tokens);
  }
}
pool.close();
