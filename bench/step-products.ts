// Measures emitted products as ops of a step program, beside what their inner loops could do at most.
// Run: node bench/step-products.ts [--threads 2] [--rows 1,4,8,16,64,512] [--rounds 15] [--only Q4_1,F32] [--fine] [--isa avx2]
import { parseArgs } from 'node:util';
import { openGgml } from '../src/engine/ffi/ggml.ts';
import { koffi } from '../src/engine/ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../src/engine/ffi/memory.ts';
import { loadCode } from '../src/engine/jit/asm/exec-memory.ts';
import { type Isa, supportedIsas } from '../src/engine/jit/cpu-features.ts';
import { OpBlock, opField } from '../src/engine/jit/kernels/op.ts';
import { fineRecord, plainRecord, recordRowBytes } from '../src/engine/jit/kernels/product/abi.ts';
import type { Gate } from '../src/engine/jit/kernels/product/gate.ts';
import { type PackedFormat, packedBytes, packedLayout } from '../src/engine/jit/kernels/product/layout.ts';
import { gatedRows } from '../src/engine/jit/kernels/product/pack.ts';
import { emitProduct, PRODUCT_OP_BYTES, writeProductOp } from '../src/engine/jit/kernels/product/product.ts';
import { emitProgram, programBytes, writeProgram } from '../src/engine/jit/kernels/program.ts';
import { ComputePool } from '../src/engine/tensor/compute.ts';
import { Graph } from '../src/engine/tensor/graph.ts';
import { custom } from '../src/engine/tensor/ops.ts';

const { values: args } = parseArgs({
  options: {
    threads: { type: 'string', default: '2' },
    rows: { type: 'string', default: '1,4,8,16,64,512' },
    rounds: { type: 'string', default: '15' },
    only: { type: 'string', default: 'Q4_1,Q4_0,Q8_0' },
    shapes: { type: 'string', default: '960x576,576x576,3072x576,576x1536,4096x1024,1024x3072' },
    fine: { type: 'boolean', default: false },
    gate: { type: 'string' },
    isa: { type: 'string' },
  },
});
const shapes = args.shapes.split(',').map((shape) => shape.split('x').map(Number) as [N: number, K: number]);
const numThreads = Number(args.threads);
const isa = (args.isa as Isa | undefined) ?? supportedIsas()[0];
if (!isa) throw new Error('no emitted kernels on this CPU');
const gate = (args.gate as Gate | undefined) ?? null;
/** Matrices of one run together exceed the caches, as a model's do. */
const workingSetBytes = 96 * 2 ** 20;

const CLOCK_THREAD_CPUTIME_ID = 3;
const clockGettime = koffi.load('libc.so.6').func('int clock_gettime(int, _Out_ int64_t *)');
const time = new BigInt64Array(2);
/** One thread is timed by the CPU time that it uses, which other processes on a shared machine do not count in. */
function nowUs(): number {
  if (numThreads > 1) return Number(process.hrtime.bigint()) / 1000;
  clockGettime(CLOCK_THREAD_CPUTIME_ID, time);
  return Number(time[0]) * 1e6 + Number(time[1]) / 1000;
}

const ggml = openGgml();
const pool = new ComputePool(ggml, { numThreads, polls: true });
const memories: NativeMemory[] = [];
const allocate = (numBytes: number): NativeMemory => {
  const memory = allocateNative(numBytes);
  memories.push(memory);
  return memory;
};

/** Random bytes whose 16-bit words are all moderate as F16 numbers. */
function fill(memory: NativeMemory): void {
  const words = new Uint16Array(memory.buffer);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = (state >>> 16) & 0xbaff;
  }
}

console.log(`${isa}, ${numThreads} threads; best (median) of ${args.rounds}`);
console.log('format  shape              M       us (median)      GOPS    GB/s of weights');
for (const format of args.only.split(',') as PackedFormat[]) {
  const layout = packedLayout(format);
  if (!layout) throw new Error(`${format} is not a packed format`);
  const kind = { layout, isa, isFine: args.fine, gate };
  const code = loadCode([emitProgram(), emitProduct(kind)]);
  const [program, product] = code.addresses as [number, number];
  for (const [N, K] of shapes) {
    const numRows = gate ? gatedRows(N) : N;
    const bytes = packedBytes(layout, numRows, K);
    const copies = Math.max(1, Math.min(100, Math.floor(workingSetBytes / bytes)));
    const xRowBytes = layout.kind === 'float' ? 4 * K + 64 : recordRowBytes(args.fine ? fineRecord : plainRecord, K);
    const weights = allocate(copies * bytes);
    fill(weights);
    for (const M of args.rows.split(',').map(Number)) {
      const used = M > 64 ? Math.min(copies, 4) : copies;
      const first = memories.length;
      const [x, out, blocks] = [allocate(M * xRowBytes), allocate(4 * M * N), allocate(used * PRODUCT_OP_BYTES)];
      fill(x);
      const table = allocate(programBytes(used));
      const words = allocate(16);
      new BigInt64Array(words.buffer)[1] = BigInt(M);
      const ops = Array.from({ length: used }, (_, i) => {
        const block = new OpBlock(blocks.buffer, i * PRODUCT_OP_BYTES, PRODUCT_OP_BYTES);
        block.set(opField.rows, words.address + 8);
        writeProductOp(block, kind, {
          N,
          K,
          weights: weights.address + i * bytes,
          x: x.address,
          xRowBytes,
          out: out.address,
          outRowBytes: 4 * N,
          bias: null,
          mode: 'store',
        });
        return { kernel: product, block: blocks.address + i * PRODUCT_OP_BYTES };
      });
      writeProgram(table.buffer, ops, { abort: words.address, stamps: 0 });
      const g = new Graph(ggml, 4);
      const graph = g.finish([custom(g, 'I32', [1], [], program, table.address)]);
      graph.place(allocate(graph.numBytes).address);
      const workBytes = pool.workBytes(g.handle);
      const counters = new BigInt64Array(blocks.buffer);
      const timesUs: number[] = [];
      for (let round = 0; round <= Number(args.rounds); round++) {
        for (let i = 0; i < used; i++) {
          counters[(i * PRODUCT_OP_BYTES + opField.claimed) / 8] = 0n;
          counters[(i * PRODUCT_OP_BYTES + opField.finished) / 8] = 0n;
        }
        const start = nowUs();
        pool.runSync(g.handle, workBytes);
        if (round > 0) timesUs.push((nowUs() - start) / used);
      }
      timesUs.sort((a, b) => a - b);
      const [best, median] = [timesUs[0]!, timesUs[timesUs.length >> 1]!];
      console.log(
        [
          format.padEnd(6),
          `${N}x${K}`.padEnd(13),
          String(M).padStart(5),
          `${best.toFixed(1)} (${median.toFixed(1)})`.padStart(20),
          ((2 * M * numRows * K) / best / 1000).toFixed(0).padStart(8),
          (bytes / best / 1000).toFixed(1).padStart(8),
        ].join('  '),
      );
      graph.free();
      for (const memory of memories.splice(first)) memory.free();
    }
    for (const memory of memories.splice(0)) memory.free();
  }
  code.free();
}
pool.close();
