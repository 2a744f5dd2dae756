// Owns the numbered log of blocks that entered and left the prefix cache, for the service's KV index. Pure.
import type { BlockDigest } from '../../common/block-digest.ts';

/** The net effect of the events after one number, up to and including `number`. */
export interface KvEventBatch {
  readonly number: number;
  /** true: `stored` is everything in the cache, and what the listener knew is void. */
  readonly isSnapshot: boolean;
  readonly stored: readonly BlockDigest[];
  readonly evicted: readonly BlockDigest[];
}

/** Keeps the last `capacity` events; who is further behind gets a snapshot. */
export class KvEventLog {
  readonly #digests: BlockDigest[] = [];
  readonly #isStored: Uint8Array;
  readonly #capacity: number;
  /** Number of the latest event; events count from 1. */
  #number = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#isStored = new Uint8Array(capacity);
  }

  get number(): number {
    return this.#number;
  }

  append(digest: BlockDigest, isStored: boolean): void {
    const at = this.#number % this.#capacity;
    this.#digests[at] = digest;
    this.#isStored[at] = isStored ? 1 : 0;
    this.#number++;
  }

  /** Events after number `after` (0: none seen yet). `everything` lists the cache for a snapshot. */
  since(after: number, everything: () => Iterable<BlockDigest>): KvEventBatch {
    const oldestKept = Math.max(0, this.#number - this.#capacity);
    if (after === 0 || after < oldestKept || after > this.#number) {
      return { number: this.#number, isSnapshot: true, stored: [...everything()], evicted: [] };
    }
    // Only the last event of a digest counts: within one batch, order is lost.
    const isStored = new Map<BlockDigest, boolean>();
    for (let number = after; number < this.#number; number++) {
      const at = number % this.#capacity;
      isStored.set(this.#digests[at]!, this.#isStored[at] === 1);
    }
    const pick = (wanted: boolean): BlockDigest[] =>
      [...isStored].filter(([, stored]) => stored === wanted).map(([digest]) => digest);
    return { number: this.#number, isSnapshot: false, stored: pick(true), evicted: pick(false) };
  }
}
