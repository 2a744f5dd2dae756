// Measures products of quantised weights: emitted kernels beside ggml's mul_mat, in turns, medians.
// Run: node bench/products.ts [--threads 2] [--rows 1,4,8,16,64,512] [--rounds 15] [--only Q4_1]
import { parseArgs } from 'node:util';
import { openGgml } from '../src/engine/ffi/ggml.ts';
import { koffi } from '../src/engine/ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../src/engine/ffi/memory.ts';
import { loadCode } from '../src/engine/jit/asm/exec-memory.ts';
import { supportedIsas } from '../src/engine/jit/cpu-features.ts';
import { emitProduct } from '../src/engine/jit/kernels/product.ts';
import {
  PRODUCT_BLOCK_BYTES,
  type PackedFormat,
  packedBytes,
  packedFormats,
  recordBytes,
  type StripLayout,
  stripLayout,
  writeProductBlock,
} from '../src/engine/jit/kernels/product-abi.ts';
import { packedSourceBytes, packRows } from '../src/engine/jit/kernels/product-pack.ts';
import { emitQuantise } from '../src/engine/jit/kernels/quantise.ts';
import { ComputePool } from '../src/engine/tensor/compute.ts';
import { tensorTypes } from '../src/engine/tensor/dtype.ts';
import { Graph, type PlacedGraph } from '../src/engine/tensor/graph.ts';
import { custom, multiply } from '../src/engine/tensor/ops.ts';

const { values: args } = parseArgs({
  options: {
    threads: { type: 'string', default: '2' },
    rows: { type: 'string', default: '1,4,8,16,64,512' },
    rounds: { type: 'string', default: '15' },
    only: { type: 'string', default: packedFormats.join() },
    shapes: { type: 'string', default: '' },
  },
});

/** [N,K]: the default model's, then Qwen3-0.6B's. */
const allShapes: readonly (readonly [N: number, K: number])[] = [
  [960, 576],
  [576, 576],
  [3072, 576],
  [576, 1536],
  [49152, 576],
  [4096, 1024],
  [1024, 2048],
  [6144, 1024],
  [1024, 3072],
  [151936, 1024],
];
const shapes = args.shapes
  ? args.shapes.split(',').map((shape) => shape.split('x').map(Number) as [number, number])
  : allShapes;

const ggml = openGgml();
const pool = new ComputePool(ggml, { numThreads: Number(args.threads), polls: true });
const isa = supportedIsas()[0];
if (!isa) throw new Error('no emitted kernels on this CPU');
/** Matrices of one run together exceed the caches, as a model's do. */
const workingSetBytes = 96 * 2 ** 20;

interface Variant {
  readonly graph: PlacedGraph;
  readonly memories: readonly NativeMemory[];
  readonly workBytes: number;
  readonly timesUs: number[];
}

function place(g: Graph, outputs: Parameters<Graph['finish']>[0], memories: NativeMemory[]): Variant {
  const graph = g.finish(outputs);
  const arena = allocateNative(graph.numBytes);
  graph.place(arena.address);
  return { graph, memories: [...memories, arena], workBytes: pool.workBytes(g.handle), timesUs: [] };
}

function withGgml(format: PackedFormat, bytes: Uint8Array, N: number, K: number, M: number, copies: number): Variant {
  const g = new Graph(ggml, 4 * copies + 8);
  const x = input(M, K);
  const memories = [x];
  const leaf = g.leaf('F32', [M, K], x.address);
  for (let i = 0; i < copies; i++) {
    const weights = allocateNative(bytes.length);
    new Uint8Array(weights.buffer).set(bytes);
    memories.push(weights);
    multiply(g, leaf, g.leaf(format, [N, K], weights.address));
  }
  return place(g, [], memories);
}

function withKernels(
  layout: StripLayout,
  addresses: readonly number[],
  bytes: Uint8Array,
  N: number,
  K: number,
  M: number,
  copies: number,
): Variant {
  const g = new Graph(ggml, 4 * copies + 8);
  const x = input(M, K);
  const blocks = allocateNative(copies * PRODUCT_BLOCK_BYTES);
  const memories = [x, blocks];
  const leaf = g.leaf('F32', [M, K], x.address);
  const numBytes = packedBytes(layout, N, K);
  const [quantise, product] = addresses as [number, number];
  for (let i = 0; i < copies; i++) {
    const weights = allocateNative(numBytes);
    const packed = new Uint8Array(weights.buffer, 0, numBytes);
    if (i === 0) packRows(layout, bytes, K, packed, 0);
    else packed.set(new Uint8Array(memories[2]!.buffer, 0, numBytes));
    memories.push(weights);
    writeProductBlock(blocks.buffer, i * PRODUCT_BLOCK_BYTES, layout, K, weights.address);
    const records = custom(g, 'I8', [recordBytes(layout.record, M, K)], [leaf], quantise, 0);
    custom(g, 'F32', [M, N], [records], product, blocks.address + i * PRODUCT_BLOCK_BYTES);
  }
  return place(g, [], memories);
}

function input(M: number, K: number): NativeMemory {
  const memory = allocateNative(4 * M * K);
  new Float32Array(memory.buffer).forEach((_, i, all) => {
    all[i] = Math.sin(i) * 2;
  });
  return memory;
}

const CLOCK_THREAD_CPUTIME_ID = 3;
const clockGettime = koffi.load('libc.so.6').func('int clock_gettime(int, _Out_ int64_t *)');
const time = new BigInt64Array(2);

/** One thread is timed by the CPU time that it uses, which other processes on a shared machine do not count in. */
function nowUs(): number {
  if (Number(args.threads) > 1) return Number(process.hrtime.bigint()) / 1000;
  clockGettime(CLOCK_THREAD_CPUTIME_ID, time);
  return Number(time[0]) * 1e6 + Number(time[1]) / 1000;
}

function once({ graph, workBytes, timesUs }: Variant, copies: number): void {
  const start = nowUs();
  pool.runSync(graph.graph.handle, workBytes);
  timesUs.push((nowUs() - start) / copies);
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;
const least = (values: readonly number[]) => Math.min(...values);

console.log(`${isa}, ${args.threads} threads, ggml ${ggml.version} ${ggml.variant}; median (best) of ${args.rounds}`);
console.log('format  shape           M    ggml us   ours us   ratio   ours GOPS   ours GB/s');
for (const format of args.only.split(',') as PackedFormat[]) {
  const layout = stripLayout(format, isa);
  const code = loadCode([emitQuantise(layout.record), emitProduct(layout)]);
  for (const [N, K] of shapes) {
    const bytes = new Uint8Array(N * packedSourceBytes(format, K));
    const values = Float32Array.from({ length: 64 * K }, (_, i) => Math.sin(i * 1.7) * 0.05);
    const piece = new Uint8Array(64 * packedSourceBytes(format, K));
    ggml.quantizeRows(tensorTypes[format].ggmlType, values, piece, 64, K);
    for (let at = 0; at < bytes.length; at += piece.length) bytes.set(piece.subarray(0, bytes.length - at), at);
    const copies = Math.max(1, Math.min(30, Math.floor(workingSetBytes / bytes.length)));
    for (const M of args.rows.split(',').map(Number)) {
      if (M * N > 2 ** 26) continue;
      const used = M > 64 ? Math.min(copies, 4) : copies;
      const theirs = withGgml(format, bytes, N, K, M, used);
      const ours = withKernels(layout, code.addresses, bytes, N, K, M, used);
      for (let round = 0; round < Number(args.rounds); round++) {
        once(theirs, used);
        once(ours, used);
      }
      const [a, b] = [median(theirs.timesUs), median(ours.timesUs)];
      const [bestA, bestB] = [least(theirs.timesUs), least(ours.timesUs)];
      console.log(
        [
          format.padEnd(6),
          `${N}x${K}`.padEnd(13),
          String(M).padStart(5),
          `${a.toFixed(1)} (${bestA.toFixed(1)})`.padStart(18),
          `${b.toFixed(1)} (${bestB.toFixed(1)})`.padStart(18),
          `${(a / b).toFixed(2)} (${(bestA / bestB).toFixed(2)})`.padStart(13),
          `${((2 * M * N * K) / bestB / 1000).toFixed(0)} GOPS`.padStart(10),
          `${(packedBytes(layout, N, K) / bestB / 1000).toFixed(1)} GB/s`.padStart(10),
        ].join('  '),
      );
      for (const { graph, memories } of [theirs, ours]) {
        graph.free();
        for (const memory of memories) memory.free();
      }
    }
  }
  code.free();
}
pool.close();
