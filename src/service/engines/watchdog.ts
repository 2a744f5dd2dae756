// Owns the judgement whether an engine still makes progress (pure): fed with what status polls say.

export interface WatchdogLimits {
  /** Pending work without a finished step for this long: stuck. */
  readonly maxStalledMs: number;
  /** Polls in a row without an answer: hung or stopped. */
  readonly maxMissedPolls: number;
}

export class Watchdog {
  readonly #limits: WatchdogLimits;
  #missedPolls = 0;

  constructor(limits: WatchdogLimits) {
    this.#limits = limits;
  }

  /** `stalledMs`: milliseconds since the last step while work is pending; null: the poll was not answered. */
  judge(stalledMs: number | null): 'alive' | 'stuck' {
    if (stalledMs === null) {
      this.#missedPolls++;
      return this.#missedPolls >= this.#limits.maxMissedPolls ? 'stuck' : 'alive';
    }
    this.#missedPolls = 0;
    return stalledMs > this.#limits.maxStalledMs ? 'stuck' : 'alive';
  }

  reset(): void {
    this.#missedPolls = 0;
  }
}
