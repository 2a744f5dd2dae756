// Owns which blocks each instance's prefix cache holds, as told by its numbered events. Pure.
import type { BlockDigest } from '../../common/block-digest.ts';

/** Events of one cache: what entered and left it after number `after`, up to `number`. */
export interface KvEvents {
  readonly after: number;
  readonly number: number;
  /** `stored` is everything there is: what was known is void. */
  readonly isSnapshot: boolean;
  readonly stored: readonly BlockDigest[];
  readonly evicted: readonly BlockDigest[];
}

interface Known {
  readonly digests: Set<BlockDigest>;
  number: number;
}

export class KvIndex {
  readonly #caches = new Map<string, Known>();

  /**
   * Takes events of an instance in. False, and nothing is changed, when some before them are missing: a snapshot is
   * needed.
   */
  apply(instance: string, events: KvEvents): boolean {
    if (events.isSnapshot) {
      this.#caches.set(instance, { digests: new Set(events.stored), number: events.number });
      return true;
    }
    const known = this.#caches.get(instance);
    if (!known || known.number !== events.after) return false;
    for (const digest of events.evicted) known.digests.delete(digest);
    for (const digest of events.stored) known.digests.add(digest);
    known.number = events.number;
    return true;
  }

  /** Number of the last event taken in; 0: none, ask for a snapshot. */
  numberOf(instance: string): number {
    return this.#caches.get(instance)?.number ?? 0;
  }

  remove(instance: string): void {
    this.#caches.delete(instance);
  }

  numBlocks(instance: string): number {
    return this.#caches.get(instance)?.digests.size ?? 0;
  }

  /** How many of the leading digests the instance holds. */
  prefixBlocks(instance: string, digests: readonly BlockDigest[]): number {
    const known = this.#caches.get(instance)?.digests;
    if (!known) return 0;
    const missing = digests.findIndex((digest) => !known.has(digest));
    return missing < 0 ? digests.length : missing;
  }
}
