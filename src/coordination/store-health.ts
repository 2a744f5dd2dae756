// Owns the judgement whether the store can be reached: an outage is told once, however many calls fail in it.
import type { CoordinatorEvents } from './coordinator.ts';

export class StoreHealth {
  readonly #events: CoordinatorEvents;
  #isLost = false;
  #isClosed = false;

  constructor(events: CoordinatorEvents) {
    this.#events = events;
  }

  failed(reason: unknown): void {
    if (this.#isLost || this.#isClosed) return;
    this.#isLost = true;
    this.#events.onUnavailable(reason instanceof Error ? reason.message : String(reason));
  }

  succeeded(): void {
    if (!this.#isLost || this.#isClosed) return;
    this.#isLost = false;
    this.#events.onAvailable();
  }

  /** What fails from now on fails because it was told to end. */
  close(): void {
    this.#isClosed = true;
  }
}
