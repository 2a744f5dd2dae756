// Owns the shape of a load run: who is sent when, and how many at once.
import type { BenchClock } from './clock.ts';
import type { RequestRecord } from './metrics.ts';

export interface LoadPlan {
  readonly numRequests: number;
  /** [numRequests] ms from the start, ascending; all 0 is a closed loop bounded by `maxConcurrency` alone. */
  readonly arrivalMs: Float64Array;
  /** Infinity: never wait for a free place. */
  readonly maxConcurrency: number;
}

export interface LoadResult {
  /** Of the requests that were sent, in the order of their ends. */
  readonly records: readonly RequestRecord[];
  readonly durationMs: number;
  /** The signal ended it early. */
  readonly isPartial: boolean;
}

/** Sends request `index`, which waited `queueMs` for its place. Must not reject. */
export type Send = (index: number, queueMs: number, signal: AbortSignal) => Promise<RequestRecord>;

/**
 * Runs the plan. When `signal` is aborted, nothing more is sent, running requests are aborted through the same signal,
 * and the result is partial. `onRecord` is called at every end.
 */
export async function runLoad(
  plan: LoadPlan,
  send: Send,
  clock: BenchClock,
  signal: AbortSignal,
  onRecord: (record: RequestRecord) => void = () => {},
): Promise<LoadResult> {
  const places = new Places(plan.maxConcurrency);
  const records: RequestRecord[] = [];
  const tasks: Promise<void>[] = [];
  const startMs = clock.now();

  async function runOne(index: number, arrivalMs: number): Promise<void> {
    await places.take();
    if (!signal.aborted) {
      const record = await send(index, clock.now() - arrivalMs, signal);
      records.push(record);
      onRecord(record);
    }
    places.give();
  }

  for (let i = 0; i < plan.numRequests; i++) {
    const waitMs = startMs + plan.arrivalMs[i]! - clock.now();
    if (waitMs > 0) await sleepUnlessAborted(clock, waitMs, signal);
    if (signal.aborted) break;
    tasks.push(runOne(i, clock.now()));
  }
  await Promise.all(tasks);
  return { records, durationMs: clock.now() - startMs, isPartial: signal.aborted };
}

async function sleepUnlessAborted(clock: BenchClock, ms: number, signal: AbortSignal): Promise<void> {
  try {
    await clock.sleep(ms, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** A counting semaphore, first come first served. */
class Places {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  take(): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return Promise.resolve();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  give(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}
