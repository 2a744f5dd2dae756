// Owns balancing while requests run: once a second at most one of them moves, where the policy finds that it helps.
import type { ClusterView } from '../registry/cluster-view.ts';
import { balanceMove, type RunningRequest } from '../routing/balance.ts';

/** What balancing needs of a request. */
interface Placed {
  readonly placement: RunningRequest | null;
  move(reason: string, only: string): Promise<unknown>;
}

export interface BalancerHost {
  view(): ClusterView;
  running(): Iterable<Placed>;
}

/** Longer than it takes for heartbeats to show what the last move did. */
const PERIOD_MS = 1_000;

export class Balancer {
  readonly #host: BalancerHost;
  readonly #margin: number;
  readonly #timer: NodeJS.Timeout;
  #isMoving = false;

  /** `margin`: how much longer a decode step of one instance must take than another's; above 1. */
  constructor(host: BalancerHost, margin: number) {
    this.#host = host;
    this.#margin = margin;
    this.#timer = setInterval(() => void this.#balance(), PERIOD_MS).unref();
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #balance(): Promise<void> {
    if (this.#isMoving) return;
    const byPlacement = new Map<RunningRequest, Placed>();
    for (const request of this.#host.running()) {
      const { placement } = request;
      if (placement) byPlacement.set(placement, request);
    }
    const move = balanceMove(this.#host.view(), [...byPlacement.keys()], this.#margin);
    if (!move) return;
    this.#isMoving = true;
    await byPlacement.get(move.request)?.move(`balance: ${move.reason}`, move.to);
    this.#isMoving = false;
  }
}
