// Owns the moves of running requests away from instances that drain: the urgent first, a few at a time, until none is left.
import type { Refusal } from '../../common/errors.ts';

/** What moves need of a request. */
interface Movable {
  /** null: between instances. */
  readonly instance: string | null;
  move(reason: string): Promise<Refusal | null>;
}

export interface MovesHost<R extends Movable> {
  /** Instances that are to be left. */
  draining(): readonly string[];
  /** Requests under way, in the order in which they are to be served. */
  running(): readonly R[];
}

/** Side by side: each computes its whole context at its target, next to what that has to do. */
const MAX_MOVES = 4;
/** How often what could not move yet is looked at again. */
const RETRY_MS = 250;

export class Moves<R extends Movable> {
  readonly #host: MovesHost<R>;
  readonly #moving = new Set<R>();
  /** Looked at in this round: refused, moved, or just being sent. */
  readonly #tried = new Set<R>();
  #timer: NodeJS.Timeout | null = null;
  #isClosed = false;

  constructor(host: MovesHost<R>) {
    this.#host = host;
  }

  /** To be called when an instance has begun to drain. */
  wake(): void {
    this.#pumpIn(0);
  }

  close(): void {
    this.#isClosed = true;
    if (this.#timer) clearTimeout(this.#timer);
  }

  #pump(): void {
    if (this.#isClosed) return;
    const draining = new Set(this.#host.draining());
    if (draining.size === 0) return;
    let isAnyLeft = false;
    for (const request of this.#host.running()) {
      if (request.instance !== null && !draining.has(request.instance)) continue;
      isAnyLeft = true;
      if (this.#moving.size >= MAX_MOVES) break;
      if (!this.#moving.has(request) && !this.#tried.has(request)) void this.#move(request);
    }
    if (!isAnyLeft) return;
    this.#pumpIn(RETRY_MS);
  }

  #pumpIn(ms: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#tried.clear();
      this.#pump();
    }, ms);
  }

  async #move(request: R): Promise<void> {
    this.#moving.add(request);
    await request.move('its instance drains');
    this.#moving.delete(request);
    this.#tried.add(request);
    this.#pump();
  }
}
