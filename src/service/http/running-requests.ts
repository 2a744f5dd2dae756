// Owns the generations in flight and the end of them: draining refuses new ones and waits for the rest.
import { XllmError } from '../../common/errors.ts';

export interface Cancellable {
  cancel(error: XllmError): void;
}

export class RunningRequests {
  readonly #running = new Set<Cancellable>();
  #numReserved = 0;
  #isDraining = false;
  #onIdle: (() => void) | null = null;

  get isDraining(): boolean {
    return this.#isDraining;
  }

  get count(): number {
    return this.#numReserved;
  }

  /**
   * Counts one request in, from its arrival to its last byte; the result counts it out.
   * Throws XllmError `engine_unavailable` while draining.
   */
  enter(): () => void {
    if (this.#isDraining) {
      throw new XllmError('engine_unavailable', 'The server is shutting down; retry in a few seconds.', {
        retryAfterS: 5,
      });
    }
    this.#numReserved++;
    let isIn = true;
    return () => {
      if (!isIn) return;
      isIn = false;
      if (--this.#numReserved === 0) this.#onIdle?.();
    };
  }

  add(request: Cancellable): void {
    this.#running.add(request);
  }

  delete(request: Cancellable): void {
    this.#running.delete(request);
  }

  /** From now on `enter` refuses. Resolves when nothing runs, or after `deadlineMs` with how many were cancelled. */
  async drain(deadlineMs: number): Promise<number> {
    this.#isDraining = true;
    if (this.#numReserved === 0) return 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onIdle = resolve;
    const timer = setTimeout(resolve, deadlineMs);
    await promise;
    clearTimeout(timer);
    const numLeft = this.#numReserved;
    const error = new XllmError('engine_unavailable', 'The server shut down before the request was done; retry.', {
      retryAfterS: 5,
    });
    for (const request of this.#running) request.cancel(error);
    return numLeft;
  }
}
