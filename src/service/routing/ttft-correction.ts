// Owns what live requests teach about the TTFT prediction: one factor per instance, and how far off it still is. Pure.

/** Share of a new request in the running means. */
const newShare = 0.1;
/** One request counts as at most this many times off: a stall teaches nothing about the model. */
const maxRatio = 4;
/** Of a factor: beyond that the prediction itself is wrong, and multiplying it helps nobody. */
const maxFactor = 8;

interface Learned {
  /** Mean logarithm of measured over predicted, both without the factor. */
  logFactor: number;
  error: number;
  numRequests: number;
}

export class TtftCorrection {
  readonly #learned = new Map<string, Learned>();

  factorOf(instance: string): number {
    return Math.exp(this.#learned.get(instance)?.logFactor ?? 0);
  }

  /** `predictedMs`: with the factor as it was then. */
  observe(instance: string, predictedMs: number, measuredMs: number): void {
    if (!(predictedMs > 0 && measuredMs > 0)) return;
    const learned = this.#learned.get(instance) ?? { logFactor: 0, error: 0, numRequests: 0 };
    this.#learned.set(instance, learned);
    learned.numRequests++;
    const share = Math.max(newShare, 1 / learned.numRequests);
    const ratio = Math.min(maxRatio, Math.max(1 / maxRatio, measuredMs / predictedMs));
    const limit = Math.log(maxFactor);
    learned.logFactor = Math.min(limit, Math.max(-limit, learned.logFactor + newShare * Math.log(ratio)));
    learned.error += share * (Math.min(maxRatio, Math.abs(predictedMs - measuredMs) / measuredMs) - learned.error);
  }

  /** Running mean of |predicted - measured| / measured; null: nothing was measured. */
  errorOf(instance: string): number | null {
    return this.#learned.get(instance)?.error ?? null;
  }

  forget(instance: string): void {
    this.#learned.delete(instance);
  }
}
