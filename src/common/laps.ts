// Owns telling what a stretch of time was spent on, part by part.
import type { Clock } from './clock.ts';

export class Laps {
  readonly #clock: Clock;
  readonly #ms = new Map<string, number>();
  #lastMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#lastMs = clock.nowMs();
  }

  /** What has happened since the previous part ended was `name`. */
  end(name: string): void {
    const nowMs = this.#clock.nowMs();
    this.#ms.set(name, (this.#ms.get(name) ?? 0) + nowMs - this.#lastMs);
    this.#lastMs = nowMs;
  }

  /** `ms` of `name` were `part`. */
  split(name: string, part: string, ms: number): void {
    this.#ms.set(name, (this.#ms.get(name) ?? 0) - ms);
    this.#ms.set(part, (this.#ms.get(part) ?? 0) + ms);
  }

  /** Milliseconds by part, in the order in which parts first ended. */
  get all(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#ms);
  }
}

/** `0.52 s: tokenizer 0.31, engine 0.18`: parts of 10 ms and more, the dearest first. */
export function describeLaps(ms: Readonly<Record<string, number>>): string {
  const seconds = (value: number) => (value / 1_000).toFixed(2);
  const total = Object.values(ms).reduce((sum, value) => sum + value, 0);
  const parts = Object.entries(ms).filter(([, value]) => value >= 10);
  const text = parts.sort(([, a], [, b]) => b - a).map(([name, value]) => `${name} ${seconds(value)}`);
  return `${seconds(total)} s${text.length > 0 ? `: ${text.join(', ')}` : ''}`;
}
