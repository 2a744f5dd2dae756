// Owns the etcd coordinator: registrations, watches and elections that survive its outages.
import type {
  Condition,
  Coordinator,
  CoordinatorEvents,
  Election,
  HeldKey,
  KeyValue,
  Leader,
  WatchEvent,
} from './coordinator.ts';
import { Campaign, type ElectionStore, type LeasedKey } from './election.ts';
import { EtcdCalls, type EtcdOptions } from './etcd-calls.ts';
import { EtcdLease } from './etcd-lease.ts';
import { StoreHealth } from './store-health.ts';

const RETRY_MS = 500;
/** Letting go of what is held takes no longer: an unreachable store forgets it by itself. */
const CLOSE_MS = 2_000;

export class EtcdCoordinator implements Coordinator, ElectionStore {
  readonly #calls: EtcdCalls;
  readonly #health: StoreHealth;
  readonly #held = new Set<EtcdHold>();
  readonly #leased = new Set<() => Promise<void>>();
  readonly #watches = new Set<() => void>();
  readonly #campaigns = new Set<Campaign>();

  constructor(options: EtcdOptions, events: CoordinatorEvents) {
    this.#health = new StoreHealth(events);
    this.#calls = new EtcdCalls(options, this.#health);
  }

  hold(key: string, value: Uint8Array, ttlMs: number): HeldKey {
    const hold = new EtcdHold(this.#calls, key, value, ttlMs);
    this.#held.add(hold);
    return {
      update: (next) => hold.update(next),
      release: async () => {
        this.#held.delete(hold);
        await hold.release();
      },
    };
  }

  watch(prefix: string, onEvent: (event: WatchEvent) => void, afterRevision?: number): () => void {
    let cancel: () => void = () => {};
    let retry: NodeJS.Timeout | null = null;
    let isStopped = false;
    const again = () => {
      if (!isStopped) retry = setTimeout(() => void follow(undefined), RETRY_MS);
    };
    const follow = async (after: number | undefined) => {
      try {
        let from = after;
        if (from === undefined) {
          const { revision, entries } = await this.#calls.list(prefix);
          if (isStopped) return;
          onEvent({ kind: 'snapshot', revision, entries });
          from = revision;
        }
        const stop = await this.#calls.watch(prefix, from + 1, onEvent, (error) => {
          this.#health.failed(error);
          again();
        });
        if (isStopped) stop();
        else cancel = stop;
      } catch (error) {
        this.#health.failed(error);
        again();
      }
    };
    void follow(afterRevision);
    const stop = () => {
      isStopped = true;
      if (retry) clearTimeout(retry);
      cancel();
      this.#watches.delete(stop);
    };
    this.#watches.add(stop);
    return stop;
  }

  get(key: string): Promise<KeyValue | null> {
    return this.#calls.get(key);
  }

  compareAndSet(key: string, value: Uint8Array | null, conditions: readonly Condition[]): Promise<number | null> {
    return this.#calls.write(key, value, conditions);
  }

  async createLeased(key: string, value: Uint8Array, ttlMs: number, onLost: () => void): Promise<LeasedKey | null> {
    const lease = await EtcdLease.grant(this.#calls, ttlMs, onLost);
    const release = async () => {
      this.#leased.delete(release);
      await lease.revoke();
    };
    this.#leased.add(release);
    try {
      const revision = await this.#calls.write(key, value, [{ key, revision: 0 }], lease.id);
      if (revision !== null) return { revision, release };
    } catch (error) {
      await release();
      throw error;
    }
    await release();
    return null;
  }

  elect(key: string, candidate: string, ttlMs: number, onChange: (leader: Leader | null) => void): Election {
    const campaign = new Campaign({ store: this, key, candidate, ttlMs, onChange });
    this.#campaigns.add(campaign);
    return campaign;
  }

  async close(): Promise<void> {
    this.#health.close();
    for (const stop of this.#watches) stop();
    const released = Promise.all([
      ...[...this.#campaigns].map((campaign) => campaign.resign()),
      ...[...this.#held].map((hold) => hold.release()),
      ...[...this.#leased].map((release) => release()),
    ]);
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, CLOSE_MS);
    await Promise.race([released, late]);
    clearTimeout(timer);
    this.#calls.close();
  }
}

/** A key that is put again, under a new lease, whenever its lease is lost. */
class EtcdHold {
  readonly #calls: EtcdCalls;
  readonly #key: string;
  readonly #ttlMs: number;
  #value: Uint8Array;
  #lease: EtcdLease | null = null;
  /** Of the last write under the lease; null: none yet. */
  #revision: number | null = null;
  #retry: NodeJS.Timeout | null = null;
  #isReleased = false;
  /** Puts follow one another: a later value is never overwritten by an earlier one. */
  #work: Promise<void> = Promise.resolve();

  constructor(calls: EtcdCalls, key: string, value: Uint8Array, ttlMs: number) {
    this.#calls = calls;
    this.#key = key;
    this.#ttlMs = ttlMs;
    this.#value = value;
    this.#putSoon();
  }

  update(value: Uint8Array): void {
    this.#value = value;
    this.#putSoon();
  }

  async release(): Promise<void> {
    if (this.#isReleased) return;
    this.#isReleased = true;
    if (this.#retry) clearTimeout(this.#retry);
    await this.#work;
    // Its successor's key is under another lease.
    await this.#lease?.revoke();
  }

  #putSoon(): void {
    if (this.#retry) clearTimeout(this.#retry);
    this.#retry = null;
    this.#work = this.#work.then(() => this.#put());
  }

  async #put(): Promise<void> {
    if (this.#isReleased) return;
    try {
      if (!this.#lease || this.#lease.isOver) {
        const lease = await EtcdLease.grant(this.#calls, this.#ttlMs, () => {
          if (!this.#isReleased) this.#putSoon();
        });
        this.#lease = lease;
        this.#revision = null;
      }
      // A change of the value takes nothing from a successor.
      const own = this.#revision === null ? [] : [{ key: this.#key, revision: this.#revision }];
      const revision = await this.#calls.write(this.#key, this.#value, own, this.#lease.id);
      this.#revision = revision ?? this.#revision;
    } catch {
      // Unreachable, which is told elsewhere: for as long as it is held it is tried again.
      if (!this.#isReleased) this.#retry = setTimeout(() => this.#putSoon(), RETRY_MS);
    }
  }
}
