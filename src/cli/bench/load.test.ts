import { describe, expect, it } from 'vitest';
import { arrivalTimes } from './arrivals.ts';
import type { BenchClock } from './clock.ts';
import { runLoad } from './load.ts';
import { peakConcurrency, type RequestRecord } from './metrics.ts';
import { seededRandom } from './random.ts';

/** Virtual time: a sleep ends when nothing else is left to do at an earlier time. */
class ScriptedClock implements BenchClock {
  #now = 0;
  readonly #sleepers: { at: number; wake: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  sleep(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      this.#sleepers.push({ at: this.#now + ms, wake: resolve });
    });
  }

  /** Wakes sleepers in order of time until `promise` settles. */
  async runUntil<T>(promise: Promise<T>): Promise<T> {
    let isSettled = false;
    const settled = promise.finally(() => {
      isSettled = true;
    });
    while (!isSettled) {
      await new Promise((resolve) => setImmediate(resolve)); // lets every promise that can go on do so
      this.#sleepers.sort((a, b) => b.at - a.at);
      const next = this.#sleepers.pop();
      if (next === undefined) continue;
      this.#now = Math.max(this.#now, next.at);
      next.wake();
    }
    return settled;
  }
}

const never = new AbortController().signal;

/** A server that takes `serviceMs(index)` per request. */
function fakeSend(clock: ScriptedClock, serviceMs: (index: number) => number) {
  return async (index: number, queueMs: number, signal: AbortSignal): Promise<RequestRecord> => {
    const startMs = clock.now();
    let outcome: RequestRecord['outcome'] = 'ok';
    await clock.sleep(serviceMs(index), signal).catch(() => {
      outcome = 'aborted';
    });
    return {
      outcome,
      error: '',
      startMs,
      queueMs,
      chunkMs: [clock.now()],
      promptTokens: index,
      cachedTokens: 0,
      outputTokens: 1,
      isUsageReported: true,
    };
  };
}

const intervals = (records: readonly RequestRecord[]) => records.map((r) => [r.startMs, r.chunkMs[0]!] as const);

describe('runLoad', () => {
  it('keeps a closed loop full: a new request starts the moment one ends', async () => {
    const clock = new ScriptedClock();
    const plan = { numRequests: 10, arrivalMs: new Float64Array(10), maxConcurrency: 4 };
    const { records, durationMs, isPartial } = await clock.runUntil(
      runLoad(
        plan,
        fakeSend(clock, () => 100),
        clock,
        never,
      ),
    );
    expect(records).toHaveLength(10);
    expect(durationMs).toBe(300);
    expect(isPartial).toBe(false);
    expect(peakConcurrency(intervals(records))).toBe(4);
    expect(records.map((r) => r.queueMs)).toEqual([0, 0, 0, 0, 100, 100, 100, 100, 200, 200]);
  });

  it('sends at the arrival times, whatever the answers take', async () => {
    const clock = new ScriptedClock();
    const arrivalMs = arrivalTimes(50, 20, 0.5, seededRandom(4));
    const plan = { numRequests: 50, arrivalMs, maxConcurrency: Infinity };
    const { records } = await clock.runUntil(
      runLoad(
        plan,
        fakeSend(clock, (i) => (i % 7) * 300),
        clock,
        never,
      ),
    );
    const starts = records.toSorted((a, b) => a.promptTokens - b.promptTokens).map((r) => r.startMs);
    starts.forEach((start, i) => expect(start).toBeCloseTo(arrivalMs[i]!, 6));
  });

  it('holds arrivals back beyond the concurrency limit and records their wait', async () => {
    const clock = new ScriptedClock();
    const plan = { numRequests: 3, arrivalMs: Float64Array.of(10, 20, 500), maxConcurrency: 1 };
    const { records } = await clock.runUntil(
      runLoad(
        plan,
        fakeSend(clock, () => 100),
        clock,
        never,
      ),
    );
    expect(records.map((r) => [r.startMs, r.queueMs])).toEqual([
      [10, 0],
      [110, 90],
      [500, 0],
    ]);
  });

  it('ends at an abort with what it has', async () => {
    const clock = new ScriptedClock();
    const controller = new AbortController();
    const plan = { numRequests: 100, arrivalMs: new Float64Array(100), maxConcurrency: 2 };
    const seen: string[] = [];
    const { records, isPartial, durationMs } = await clock.runUntil(
      runLoad(
        plan,
        fakeSend(clock, () => 50),
        clock,
        controller.signal,
        (record) => {
          if (seen.push(record.outcome) === 5) controller.abort();
        },
      ),
    );
    expect(isPartial).toBe(true);
    expect(durationMs).toBe(150);
    expect(records.filter((r) => r.outcome === 'ok').length).toBeGreaterThanOrEqual(5);
    expect(records.length).toBeLessThanOrEqual(7);
  });

  it('ends at an abort while it waits for the next arrival', async () => {
    const clock = new ScriptedClock();
    const controller = new AbortController();
    const plan = { numRequests: 2, arrivalMs: Float64Array.of(0, 1e9), maxConcurrency: Infinity };
    const { records, isPartial } = await clock.runUntil(
      runLoad(
        plan,
        fakeSend(clock, () => 50),
        clock,
        controller.signal,
        () => controller.abort(),
      ),
    );
    expect(records).toHaveLength(1);
    expect(isPartial).toBe(true);
  });
});
