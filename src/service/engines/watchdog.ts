// Owns the judgement whether an engine still makes progress (pure): fed with what status polls say.

export interface WatchdogLimits {
  /** Pending work without a finished step for this long: stuck. */
  readonly maxStalledMs: number;
  /** No answer for this long: hung or stopped. */
  readonly maxSilentMs: number;
}

export class Watchdog {
  readonly #limits: WatchdogLimits;
  #lastAnswerMs = 0;

  constructor(limits: WatchdogLimits) {
    this.#limits = limits;
  }

  /** The engine has just been heard of. */
  reset(nowMs: number): void {
    this.#lastAnswerMs = nowMs;
  }

  /** `stalledMs`: milliseconds since the last step while work is pending; null: there was no answer. */
  judge(stalledMs: number | null, nowMs: number): 'alive' | 'stuck' {
    if (stalledMs === null) return nowMs - this.#lastAnswerMs > this.#limits.maxSilentMs ? 'stuck' : 'alive';
    this.#lastAnswerMs = nowMs;
    return stalledMs > this.#limits.maxStalledMs ? 'stuck' : 'alive';
  }
}
