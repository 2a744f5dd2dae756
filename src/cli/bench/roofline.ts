// Owns the measurement of what this machine can do at most: read memory, and multiply in each kind of number.
import { z } from 'zod';
import { openGgml } from '../../engine/ffi/ggml.ts';
import { allocateNative } from '../../engine/ffi/memory.ts';
import { canExecute, loadCode } from '../../engine/jit/asm/exec-memory.ts';
import { cpuFeatures, supportedIsas } from '../../engine/jit/cpu-features.ts';
import {
  emitProductLoop,
  emitRead,
  READ_BYTES_PER_TURN,
  ROOFLINE_BLOCK_BYTES,
  writeRooflineBlock,
} from '../../engine/jit/kernels/roofline.ts';
import { ComputePool } from '../../engine/tensor/compute.ts';
import { Graph } from '../../engine/tensor/graph.ts';
import { custom } from '../../engine/tensor/ops.ts';

export const rooflineSchema = z.object({
  threads: z.number(),
  memoryReadGBs: z.number(),
  /** A multiplication and an addition are two operations. */
  int8Gops: z.number(),
  /** null where the CPU has no instruction for it. */
  bf16Gflops: z.number().nullable(),
  f32Gflops: z.number(),
});
export type Roofline = z.infer<typeof rooflineSchema>;

/** Far beyond any third-level cache. */
const READ_BYTES = 256 * 2 ** 20;
/** A run is short beside a scheduler's time slice, so that the best of many was alone on its cores. */
const RUN_MS = 2;
const NUM_RUNS = 100;

/** Best of many short runs on `threads` threads; null where no code can be emitted. */
export function measureRoofline(threads: number): Roofline | null {
  const [isa] = supportedIsas();
  if (isa === undefined || !canExecute().ok) return null;
  const cpu = cpuFeatures();
  const pool = new ComputePool(openGgml(), { numThreads: threads, polls: true });
  try {
    const rateOf = (kind: 'int8' | 'bf16' | 'f32'): number | null => {
      const loop = emitProductLoop(kind, isa, cpu);
      if (loop === null) return null;
      using runner = new LoopRunner(pool, loop.code);
      const turnsPerMs = runner.turnsPerMs(1 << 16);
      const count = Math.ceil(turnsPerMs * RUN_MS);
      return (loop.operationsPerTurn * count * threads) / runner.bestMs(count) / 1e6;
    };
    return {
      threads,
      memoryReadGBs: readRate(pool, emitRead(isa), threads),
      int8Gops: rateOf('int8') ?? 0,
      bf16Gflops: rateOf('bf16'),
      f32Gflops: rateOf('f32') ?? 0,
    };
  } finally {
    pool.close();
  }
}

function readRate(pool: ComputePool, code: ReturnType<typeof emitRead>, threads: number): number {
  const memory = allocateNative(READ_BYTES);
  try {
    new Uint8Array(memory.buffer).fill(1); // pages exist once they are written
    using runner = new LoopRunner(pool, code);
    const count = Math.floor(READ_BYTES / threads / READ_BYTES_PER_TURN);
    const sliceBytes = count * READ_BYTES_PER_TURN;
    return (sliceBytes * threads) / runner.bestMs(count, memory.address, sliceBytes) / 1e6;
  } finally {
    memory.free();
  }
}

/** One loop as a graph of one node, run on all threads of the pool. */
class LoopRunner implements Disposable {
  readonly #pool: ComputePool;
  readonly #code: ReturnType<typeof loadCode>;
  readonly #memory = allocateNative(4096);
  readonly #graph: Graph;

  constructor(pool: ComputePool, code: Parameters<typeof loadCode>[0][number]) {
    this.#pool = pool;
    this.#code = loadCode([code]);
    this.#graph = new Graph(openGgml(), 4);
    custom(this.#graph, 'F32', [1], [], this.#code.addresses[0] ?? 0, this.#memory.address);
    this.#graph.finish([]).place(this.#memory.address + ROOFLINE_BLOCK_BYTES);
  }

  #runMs(count: number, address: number, sliceBytes: number): number {
    writeRooflineBlock(this.#memory.buffer, 0, { address, sliceBytes, count });
    const startMs = performance.now();
    this.#pool.runSync(this.#graph.handle);
    return performance.now() - startMs;
  }

  bestMs(count: number, address = 0, sliceBytes = 0): number {
    return Math.min(...Array.from({ length: NUM_RUNS }, () => this.#runMs(count, address, sliceBytes)));
  }

  turnsPerMs(count: number): number {
    return count / this.bestMs(count);
  }

  [Symbol.dispose](): void {
    this.#graph.free();
    this.#memory.free();
    this.#code.free();
  }
}
