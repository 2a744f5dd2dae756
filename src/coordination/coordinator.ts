// Owns the coordinator seam: who is alive and where, and who decides. Implementations: embedded (in the one service
// process, and its face for other processes), etcd. One conformance suite holds them to what is said here.

export interface KeyValue {
  readonly key: string;
  readonly value: Uint8Array;
  /** Revision of the write that made it: a store-wide count that only grows. */
  readonly revision: number;
}

export type WatchEvent =
  /** Everything under the prefix as of `revision`: replaces what the watcher knew. */
  | { readonly kind: 'snapshot'; readonly revision: number; readonly entries: readonly KeyValue[] }
  | ({ readonly kind: 'put' } & KeyValue)
  | { readonly kind: 'delete'; readonly revision: number; readonly key: string };

/** A key that exists for as long as its holder lives and wants it. */
export interface HeldKey {
  update(value: Uint8Array): void;
  /** The key goes now, unless a successor has taken it over. Never rejects: an unreachable store forgets by itself. */
  release(): Promise<void>;
}

/** One key must be as stated for a write to happen. */
export interface Condition {
  readonly key: string;
  /** Of its latest write; 0: it must not exist. */
  readonly revision: number;
}

export interface Leader {
  readonly candidate: string;
  /** Grows with every change of leader: a write of a deposed one is refused by {key, revision: term}. */
  readonly term: number;
}

export interface Election {
  /** As far as known; null: nobody, or the store cannot be reached. */
  readonly leader: Leader | null;
  /** The term that this candidate holds; null: it does not lead. Ends by its own clock when the lease may have run out. */
  readonly ownTerm: number | null;
  /** Gives up what it holds and stands no more. */
  resign(): Promise<void>;
}

/** The store did not answer: nothing is known of what was asked for, a write may have happened. */
export class CoordinatorUnavailable extends Error {
  override readonly name = 'CoordinatorUnavailable';
}

export interface Coordinator {
  /**
   * Puts a key under a lease, over whatever is there (a predecessor neither takes it back nor changes it any more): it vanishes at the latest `ttlMs` (plus the store's own slack of
   * a second or two) after its holder was last heard of, and may vanish as soon as the holder is seen to be gone.
   * Reconnects, leases and puts again for as long as it is held, so that an outage or an empty store heals by itself.
   */
  hold(key: string, value: Uint8Array, ttlMs: number): HeldKey;
  /**
   * Tells of every key under `prefix`, until the returned function is called. Without `afterRevision` the first event is
   * a snapshot; with it, the events after it, where the store still has them, or else a snapshot. After a break in the
   * connection there is a snapshot again. While the store is away nothing is told: the last view stands.
   * Changes come once each and in the order of their revisions, a refresh of a lease is none.
   */
  watch(prefix: string, onEvent: (event: WatchEvent) => void, afterRevision?: number): () => void;
  /** Rejects with CoordinatorUnavailable. */
  get(key: string): Promise<KeyValue | null>;
  /**
   * Writes (`value` null: deletes) if every condition holds, as one indivisible act. Resolves with the revision of the
   * write, or null where a condition did not hold. Rejects with CoordinatorUnavailable.
   */
  compareAndSet(key: string, value: Uint8Array | null, conditions: readonly Condition[]): Promise<number | null>;
  /**
   * Stands for leadership under `key` until `resign`. Of all candidates at most one leads at a time; when it goes, or is
   * not heard of for `ttlMs`, another is chosen at once. `onChange` is called with each new leader, or null.
   */
  elect(key: string, candidate: string, ttlMs: number, onChange: (leader: Leader | null) => void): Election;
  /** Releases everything held. */
  close(): Promise<void>;
}

/** Told once when the store is lost and once when it is back: an outage is two lines in a log. */
export interface CoordinatorEvents {
  onUnavailable(reason: string): void;
  onAvailable(): void;
}

export const silentEvents: CoordinatorEvents = { onUnavailable: () => {}, onAvailable: () => {} };
