// Owns the embedded coordinator's state: keys, revisions, leases and the recent past. Pure; time comes as an argument.
import { invariant } from '../common/errors.ts';
import type { Condition, KeyValue, WatchEvent } from './coordinator.ts';

interface Entry extends KeyValue {
  /** 0: lives as long as the store. */
  readonly lease: number;
}

interface Lease {
  readonly ttlMs: number;
  expiresMs: number;
  readonly keys: Set<string>;
}

interface Watcher {
  readonly prefix: string;
  readonly onEvent: (event: WatchEvent) => void;
}

type Change = Exclude<WatchEvent, { kind: 'snapshot' }>;

/** Changes kept for watchers that ask for a past revision. */
const HISTORY = 10_000;

export class KeyStore {
  readonly #entries = new Map<string, Entry>();
  readonly #leases = new Map<number, Lease>();
  readonly #watchers = new Set<Watcher>();
  readonly #history: Change[] = [];
  #nextLease = 1;
  #revision: number;

  /** `revision` to count from: a restarted store must not repeat its predecessor's numbers. */
  constructor(revision = 0) {
    this.#revision = revision;
  }

  get(key: string): KeyValue | null {
    const entry = this.#entries.get(key);
    return entry ? { key, value: entry.value, revision: entry.revision } : null;
  }

  grant(ttlMs: number, nowMs: number): number {
    const id = this.#nextLease++;
    this.#leases.set(id, { ttlMs, expiresMs: nowMs + ttlMs, keys: new Set() });
    return id;
  }

  /** False: the lease has run out, and its keys with it. */
  refresh(id: number, nowMs: number): boolean {
    this.expire(nowMs);
    const lease = this.#leases.get(id);
    if (!lease) return false;
    lease.expiresMs = nowMs + lease.ttlMs;
    return true;
  }

  /** Ends a lease and deletes the keys that are still under it. */
  revoke(id: number): void {
    const lease = this.#leases.get(id);
    if (!lease) return;
    this.#leases.delete(id);
    for (const key of lease.keys) this.#delete(key);
  }

  expire(nowMs: number): void {
    for (const [id, lease] of this.#leases) if (lease.expiresMs <= nowMs) this.revoke(id);
  }

  /** When the next lease runs out; null: none. */
  nextExpiryMs(): number | null {
    let next: number | null = null;
    for (const { expiresMs } of this.#leases.values()) next = Math.min(next ?? expiresMs, expiresMs);
    return next;
  }

  /**
   * Writes (null: deletes) if every condition holds; returns the revision of the write, or null. A value equal to the
   * one that is there is a write like any other. `lease` 0: none; an unknown lease refuses the write.
   */
  write(key: string, value: Uint8Array | null, conditions: readonly Condition[] = [], lease = 0): number | null {
    if (!conditions.every((condition) => (this.#entries.get(condition.key)?.revision ?? 0) === condition.revision))
      return null;
    if (value === null) {
      this.#delete(key);
      return this.#revision;
    }
    const holder = this.#leases.get(lease);
    if (lease !== 0 && !holder) return null;
    this.#leases.get(this.#entries.get(key)?.lease ?? 0)?.keys.delete(key);
    holder?.keys.add(key);
    const entry = { key, value, revision: ++this.#revision, lease };
    this.#entries.set(key, entry);
    this.#publish({ kind: 'put', key, value, revision: entry.revision });
    return entry.revision;
  }

  watch(prefix: string, onEvent: (event: WatchEvent) => void, afterRevision?: number): () => void {
    const oldestKnown = this.#history[0]?.revision ?? this.#revision + 1;
    if (afterRevision !== undefined && afterRevision <= this.#revision && afterRevision >= oldestKnown - 1) {
      for (const change of this.#history)
        if (change.revision > afterRevision && change.key.startsWith(prefix)) onEvent(change);
    } else {
      const entries = [...this.#entries.values()].filter(({ key }) => key.startsWith(prefix));
      onEvent({
        kind: 'snapshot',
        revision: this.#revision,
        entries: entries.map(({ key, value, revision }) => ({ key, value, revision })),
      });
    }
    const watcher = { prefix, onEvent };
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** Throws unless leases and keys tell the same. */
  checkIntegrity(): void {
    let numLeased = 0;
    for (const [id, { keys }] of this.#leases) {
      numLeased += keys.size;
      for (const key of keys) invariant(this.#entries.get(key)?.lease === id, `${key} is not under lease ${id}`);
    }
    const numExpected = [...this.#entries.values()].filter(({ lease }) => lease !== 0).length;
    invariant(numLeased === numExpected, 'a key is under a lease that is gone');
  }

  #delete(key: string): void {
    const entry = this.#entries.get(key);
    if (!entry) return;
    this.#leases.get(entry.lease)?.keys.delete(key);
    this.#entries.delete(key);
    this.#publish({ kind: 'delete', key, revision: ++this.#revision });
  }

  #publish(change: Change): void {
    this.#history.push(change);
    if (this.#history.length > HISTORY) this.#history.shift();
    // Who begins or stops to watch meanwhile has a view of its own.
    for (const watcher of new Set(this.#watchers))
      if (this.#watchers.has(watcher) && change.key.startsWith(watcher.prefix)) watcher.onEvent(change);
  }
}
