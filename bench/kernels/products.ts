// Owns the measurement of emitted products: as ops of a program, beside the roofline of the same threads and ggml's.
// node bench/kernels/products.ts [--threads 2] [--rows 1,4,8,16,64,512] [--only Q4_1,F32] [--shapes 3072x576] [--fine]
//   [--gate silu] [--isa avx2] [--ggml] [--rounds 15] [--megabytes 96]
import { parseArgs } from 'node:util';
import { openGgml } from '../../src/engine/ffi/ggml.ts';
import { koffi } from '../../src/engine/ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../../src/engine/ffi/memory.ts';
import { loadCode } from '../../src/engine/jit/asm/exec-memory.ts';
import { mem } from '../../src/engine/jit/asm/operands.ts';
import type { MachineCode } from '../../src/engine/jit/asm/program.ts';
import { rax, ymm, zmm } from '../../src/engine/jit/asm/registers.ts';
import { type Isa, supportedIsas } from '../../src/engine/jit/cpu-features.ts';
import { emitOp, OP_FIELDS, OpBlock, opField, opMem, ROWS_BYTES, rowsField } from '../../src/engine/jit/kernels/op.ts';
import { fineRecord, plainRecord, recordRowBytes } from '../../src/engine/jit/kernels/product/abi.ts';
import type { Gate } from '../../src/engine/jit/kernels/product/gate.ts';
import { type PackedFormat, packedBytes, packedLayout } from '../../src/engine/jit/kernels/product/layout.ts';
import { gatedRows, sourceBytes } from '../../src/engine/jit/kernels/product/pack.ts';
import { emitProduct } from '../../src/engine/jit/kernels/product/product.ts';
import { PRODUCT_OP_BYTES, writeProductOp } from '../../src/engine/jit/kernels/product/product-op.ts';
import { programBytes, writeProgram } from '../../src/engine/jit/kernels/program.ts';
import { ThreadTeam } from '../../src/engine/program/thread-team.ts';
import { ComputePool } from '../../src/engine/tensor/compute.ts';
import { Graph } from '../../src/engine/tensor/graph.ts';
import { multiply } from '../../src/engine/tensor/ops.ts';

const { values: args } = parseArgs({
  options: {
    threads: { type: 'string', default: '2' },
    rows: { type: 'string', default: '1,4,8,16,64,512' },
    rounds: { type: 'string', default: '15' },
    only: { type: 'string', default: 'Q4_1,Q4_0,Q8_0' },
    // The default model's, then Qwen3-0.6B's and 1.7B's, [N,K].
    shapes: {
      type: 'string',
      default: '960x576,576x576,3072x576,576x1536,4096x1024,1024x2048,6144x1024,1024x3072,12288x2048,2048x6144',
    },
    fine: { type: 'boolean', default: false },
    gate: { type: 'string' },
    isa: { type: 'string' },
    ggml: { type: 'boolean', default: false },
    // Matrices of one run together: more than the caches, as a model's are.
    megabytes: { type: 'string', default: '96' },
  },
});
const shapes = args.shapes.split(',').map((shape) => shape.split('x').map(Number) as [N: number, K: number]);
const numThreads = Number(args.threads);
const isa = (args.isa as Isa | undefined) ?? supportedIsas()[0];
if (!isa) throw new Error('no emitted kernels on this CPU');
const gate = (args.gate as Gate | undefined) ?? null;
const workingSetBytes = Number(args.megabytes) * 2 ** 20;

const CLOCK_THREAD_CPUTIME_ID = 3;
const clockGettime = koffi.load('libc.so.6').func('int clock_gettime(int, _Out_ int64_t *)');
const time = new BigInt64Array(2);
/** One thread is timed by the CPU time that it uses, which other processes on a shared machine do not count in. */
function nowUs(): number {
  if (numThreads > 1) return Number(process.hrtime.bigint()) / 1000;
  clockGettime(CLOCK_THREAD_CPUTIME_ID, time);
  return Number(time[0]) * 1e6 + Number(time[1]) / 1000;
}

const team = new ThreadTeam({ numThreads, polls: true });
const ggml = args.ggml ? openGgml() : null;
const pool = ggml && new ComputePool(ggml, { numThreads, polls: true });

/** Random bytes whose 16-bit words are all moderate as F16 numbers. */
function fill({ buffer }: NativeMemory): void {
  const words = new Uint16Array(buffer);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = (state >>> 16) & 0xbaff;
  }
}

interface Run {
  readonly once: () => void;
  readonly count: number;
}

/** A program of ops of one kernel. `write` fills in op number i. Not freed: a late thread may still look at it. */
function programOf(code: MachineCode, count: number, rows: number, write: (block: OpBlock, i: number) => void): Run {
  const loaded = loadCode([code]);
  const kernel = loaded.addresses[0] ?? 0;
  const [blocks, table] = [allocateNative(count * PRODUCT_OP_BYTES), allocateNative(programBytes(count))];
  const words = allocateNative(8 + ROWS_BYTES);
  const step = new BigInt64Array(words.buffer, 8, ROWS_BYTES / 8);
  step[rowsField.count / 8] = BigInt(rows);
  const places = Array.from({ length: count }, (_, i) => i * PRODUCT_OP_BYTES);
  const ops = places.map((at, i) => {
    const block = new OpBlock(blocks.buffer, at, PRODUCT_OP_BYTES);
    block.set(opField.rows, words.address + 8);
    write(block, i);
    return { kernel, block: blocks.address + at };
  });
  writeProgram(table.buffer, ops, { abort: words.address, stamps: 0 });
  return {
    count,
    once: () => {
      step[rowsField.generation / 8] = BigInt(team.nextGeneration);
      team.runSync(table.address);
    },
  };
}

/** Best and median time of an op, us, of all runs in turn. */
function measure(runs: readonly Run[], rounds: number): { best: number; median: number }[] {
  const times: number[][] = runs.map(() => []);
  for (let round = 0; round <= rounds; round++) {
    for (const [i, { once, count }] of runs.entries()) {
      const start = nowUs();
      once();
      if (round > 0) times[i]?.push((nowUs() - start) / count);
    }
  }
  return times.map((all) => {
    all.sort((a, b) => a - b);
    return { best: all[0] ?? 0, median: all[all.length >> 1] ?? 0 };
  });
}

/** What the threads can do at most: int8 products from registers in GOPS, and reading memory in GB/s. */
function roofline(memory: NativeMemory): { gops: number; gbPerSecond: number } {
  const isWide = isa === 'avx512';
  const vec = isWide ? zmm : ymm;
  const [pieces, turns, numSums] = [8 * numThreads, 20_000, 12];
  const products = emitOp(
    'peak',
    ({ a }) => a.mov(rax, pieces),
    ({ a }) => {
      a.mov(rax, turns);
      const loop = a.here('turn');
      for (let i = 0; i < numSums; i++) {
        if (isWide) a.vpdpbusd(vec(i), vec(30), vec(31));
        else a.vpmaddubsw(vec(i), vec(14), vec(15));
      }
      a.sub(rax, 1);
      a.jne(loop);
    },
  );
  const pieceBytes = 2 ** 18;
  const numPieces = Math.floor(memory.numBytes / pieceBytes) - 1;
  const reading = emitOp(
    'read',
    ({ a }) => a.mov(rax, numPieces),
    ({ a, f, op }) => {
      const [at, left] = [f.gpr(), f.gpr()];
      a.imul3(at, rax, pieceBytes);
      a.add(at, opMem(op, OP_FIELDS));
      a.mov(left, pieceBytes / 1024);
      const loop = a.here('lines');
      for (let line = 0; line < 16; line++) {
        a.vmovups(vec(line % 8), mem(at, 64 * line));
        if (!isWide) a.vmovups(vec(8 + (line % 8)), mem(at, 64 * line + 32));
      }
      a.add(at, 1024);
      a.sub(left, 1);
      a.jne(loop);
    },
  );
  const runs = [
    programOf(products, 1, 1, () => {}),
    programOf(reading, 1, 1, (block) => block.set(OP_FIELDS, memory.address)),
  ];
  const [peak, read] = measure(runs, 25);
  const perTurn = numSums * 2 * (isWide ? 64 : 32);
  return {
    gops: (pieces * turns * perTurn) / (peak?.best ?? 1) / 1000,
    gbPerSecond: (numPieces * pieceBytes) / (read?.best ?? 1) / 1000,
  };
}

function productRun(format: PackedFormat, weights: NativeMemory, [N, K]: readonly [number, number], M: number): Run {
  const layout = packedLayout(format);
  if (!layout || !isa) throw new Error(`${format} is not a packed format`);
  const kind = { layout, isa, isFine: args.fine, gate };
  const bytes = packedBytes(layout, gate ? gatedRows(N) : N, K);
  const xRowBytes = layout.kind === 'float' ? 4 * K + 64 : recordRowBytes(args.fine ? fineRecord : plainRecord, K);
  const [x, out] = [allocateNative(M * xRowBytes), allocateNative(4 * M * N)];
  fill(x);
  const copies = copiesOf(bytes, M);
  return programOf(emitProduct(kind), copies, M, (block, i) =>
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
    }),
  );
}

const copiesOf = (bytes: number, M: number) =>
  Math.max(1, Math.min(M > 64 ? 4 : 100, Math.floor(workingSetBytes / bytes)));

function ggmlRun(format: PackedFormat, weights: NativeMemory, [N, K]: readonly [number, number], M: number): Run[] {
  const layout = packedLayout(format);
  if (!ggml || !pool || !layout) return [];
  const bytes = N * sourceBytes(layout, K);
  const copies = copiesOf(bytes, M);
  const g = new Graph(ggml, 4 * copies + 8);
  const x = allocateNative(4 * M * K);
  new Float32Array(x.buffer).forEach((_, i, all) => (all[i] = Math.sin(i)));
  const leaf = g.leaf('F32', [M, K], x.address);
  for (let i = 0; i < copies; i++) multiply(g, leaf, g.leaf(format, [N, K], weights.address + i * bytes));
  const graph = g.finish([]);
  const arena = allocateNative(graph.numBytes);
  graph.place(arena.address);
  const workBytes = pool.workBytes(g.handle);
  return [{ count: copies, once: () => pool.runSync(g.handle, workBytes) }];
}

const weights = allocateNative(Math.max(2 * workingSetBytes, 256 * 2 ** 20));
fill(weights);
const { gops, gbPerSecond } = roofline(weights);
const peaks = `${gops.toFixed(0)} int8 GOPS from registers, ${gbPerSecond.toFixed(1)} GB/s from memory`;
console.log(`${isa}, ${numThreads} threads: ${peaks}; best (median) of ${args.rounds}; % of these`);
console.log(
  `format  shape              M       us (median)       GOPS          GB/s${ggml ? '      ggml us  ratio' : ''}`,
);
for (const format of args.only.split(',') as PackedFormat[]) {
  const layout = packedLayout(format);
  if (!layout) throw new Error(`${format} is not a packed format`);
  for (const [N, K] of shapes) {
    const numRows = gate ? gatedRows(N) : N;
    const bytes = packedBytes(layout, numRows, K);
    for (const M of args.rows.split(',').map(Number)) {
      const runs = [productRun(format, weights, [N, K], M), ...ggmlRun(format, weights, [N, K], M)];
      const [ours, theirs] = measure(runs, Number(args.rounds));
      if (!ours) throw new Error('nothing was measured');
      const [operations, read] = [(2 * M * numRows * K) / ours.best / 1000, bytes / ours.best / 1000];
      console.log(
        [
          format.padEnd(6),
          `${N}x${K}`.padEnd(13),
          String(M).padStart(5),
          `${ours.best.toFixed(1)} (${ours.median.toFixed(1)})`.padStart(18),
          `${operations.toFixed(0)} ${((100 * operations) / gops).toFixed(0)}%`.padStart(10),
          `${read.toFixed(1)} ${((100 * read) / gbPerSecond).toFixed(0)}%`.padStart(12),
          theirs ? `${theirs.best.toFixed(1)}  ${(theirs.best / ours.best).toFixed(2)}`.padStart(16) : '',
        ].join('  '),
      );
    }
  }
}
pool?.close();
team.close();
