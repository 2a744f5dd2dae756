// Owns time for load runs, so that tests can script it.
import { setTimeout as delay } from 'node:timers/promises';

export interface BenchClock {
  /** Monotonic, in ms. */
  now(): number;
  /** Rejects with an AbortError once `signal` is aborted. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

export const systemClock: BenchClock = {
  now: () => performance.now(),
  sleep: (ms, signal) => delay(ms, undefined, { signal }),
};
