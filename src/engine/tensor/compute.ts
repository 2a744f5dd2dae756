// Owns running graphs: one persistent threadpool, one scratch buffer, one computation at a time.
import { invariant } from '../../common/errors.ts';
import type { Ggml, GgmlGraph } from '../ffi/ggml.ts';
import { planBytes, planField } from '../ffi/ggml-layout.ts';
import type { Address } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';

export interface ComputeOptions {
  readonly numThreads: number;
  /**
   * Whether idle threads spin for a while before they sleep. Wanted where threads do not outnumber cores: waking a
   * sleeping thread costs 50-76 us, a spinning one 3-7 us.
   */
  readonly polls: boolean;
}

/** ggml's polling level: about 0.1 s of spinning after a graph, then sleep, so that an idle engine uses no CPU. */
const pollLevel = 50;

export class ComputePool {
  readonly maxThreads: number;
  readonly #ggml: Ggml;
  readonly #pool: Address;
  readonly #plan: NativeMemory;
  readonly #fields: DataView;
  #scratch: NativeMemory | null = null;
  #isRunning = false;

  constructor(ggml: Ggml, { numThreads, polls }: ComputeOptions) {
    this.maxThreads = numThreads;
    this.#ggml = ggml;
    this.#pool = ggml.threadpoolNew(numThreads, polls ? pollLevel : 0);
    this.#plan = allocateNative(planBytes);
    this.#fields = new DataView(this.#plan.buffer);
    this.#set(planField.threadpool, this.#pool);
  }

  #set(field: number, value: number): void {
    this.#fields.setBigUint64(field, BigInt(value), true);
  }

  /** Scratch bytes that the graph needs with any number of threads: a property of its shapes, to be kept with it. */
  workBytes(graph: GgmlGraph): number {
    return this.#ggml.planWorkBytes(graph, this.maxThreads, this.#pool);
  }

  /** Runs the graph off the event loop. Rejects when ggml reports a failure: a bug. */
  async run(graph: GgmlGraph, workBytes: number, numThreads = this.maxThreads): Promise<void> {
    this.#start(workBytes, numThreads);
    try {
      check(await this.#ggml.computeAsync(graph, this.#plan.address));
    } finally {
      this.#isRunning = false;
    }
  }

  /** Runs the graph on the calling thread: start-up and tests. */
  runSync(graph: GgmlGraph, workBytes = this.workBytes(graph)): void {
    this.#start(workBytes, this.maxThreads);
    try {
      check(this.#ggml.compute(graph, this.#plan.address));
    } finally {
      this.#isRunning = false;
    }
  }

  #start(workBytes: number, numThreads: number): void {
    invariant(!this.#isRunning, 'a graph is already running');
    invariant(numThreads <= this.maxThreads, `${numThreads} threads of ${this.maxThreads}`);
    this.#fields.setInt32(planField.numThreads, numThreads, true);
    this.#isRunning = true;
    if (!this.#scratch || this.#scratch.numBytes < workBytes) {
      this.#scratch?.free();
      this.#scratch = allocateNative(workBytes);
      this.#set(planField.workData, this.#scratch.address);
    }
    this.#set(planField.workSize, workBytes);
  }

  close(): void {
    invariant(!this.#isRunning, 'the pool is closed under a running graph');
    this.#ggml.threadpoolFree(this.#pool);
    this.#plan.free();
    this.#scratch?.free();
  }
}

function check(status: number): void {
  invariant(status === 0, `ggml could not compute the graph: status ${status}`);
}
