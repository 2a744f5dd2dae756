// Owns the judgement whether the store can be reached: an outage is told once, however many calls fail in it.
import { type CoordinatorEvents, CoordinatorUnavailable } from './coordinator.ts';

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

  /**
   * What the call brings; the store is judged by it. Throws CoordinatorUnavailable where it fails, but for errors that
   * `isAnswer` takes for answers.
   */
  async judge<T>(call: () => Promise<T>, isAnswer: (error: unknown) => boolean = () => false): Promise<T> {
    try {
      const reply = await call();
      this.succeeded();
      return reply;
    } catch (error) {
      if (isAnswer(error)) throw error;
      this.failed(error);
      throw new CoordinatorUnavailable(error instanceof Error ? error.message : String(error));
    }
  }

  /** What fails from now on fails because it was told to end. */
  close(): void {
    this.#isClosed = true;
  }
}
