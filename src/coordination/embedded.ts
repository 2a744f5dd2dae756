// Owns the embedded coordinator: the key store inside the one service process, and its face on the contract.
import { create } from '@bufbuild/protobuf';
import { type Clock, monotonicClock } from '../common/clock.ts';
import {
  CompareAndSetReplySchema,
  Coordination,
  GetReplySchema,
  HoldReplySchema,
  type HoldRequest,
  KeyChangeSchema,
  type WatchReply,
  WatchReplySchema,
} from '../contract/generated/xllm_pb.js';
import type { ContractServer } from '../contract/grpc.ts';
import type { Condition, Coordinator, Election, HeldKey, KeyValue, Leader, WatchEvent } from './coordinator.ts';
import { Campaign, type ElectionStore, type LeasedKey } from './election.ts';
import { KeyStore } from './key-store.ts';

export class EmbeddedCoordinator implements Coordinator, ElectionStore {
  /** Counts from the time of day: a restarted store must not repeat its predecessor's revisions. */
  readonly #store = new KeyStore(Date.now());
  readonly #clock: Clock;
  readonly #campaigns = new Set<Campaign>();
  #timer: NodeJS.Timeout | null = null;

  constructor(clock: Clock = monotonicClock) {
    this.#clock = clock;
  }

  /** Needs no lease: the store lives no longer than this process. */
  hold(key: string, value: Uint8Array): HeldKey {
    let revision = this.#store.write(key, value);
    return {
      update: (next) => {
        if (this.#store.get(key)?.revision === revision) revision = this.#store.write(key, next);
      },
      release: async () => {
        // A successor's key has another revision.
        if (revision !== null) this.#store.write(key, null, [{ key, revision }]);
      },
    };
  }

  watch(prefix: string, onEvent: (event: WatchEvent) => void, afterRevision?: number): () => void {
    return this.#store.watch(prefix, onEvent, afterRevision);
  }

  async get(key: string): Promise<KeyValue | null> {
    return this.#store.get(key);
  }

  async compareAndSet(key: string, value: Uint8Array | null, conditions: readonly Condition[]): Promise<number | null> {
    return this.#store.write(key, value, conditions);
  }

  async createLeased(key: string, value: Uint8Array): Promise<LeasedKey | null> {
    const revision = this.#store.write(key, value, [{ key, revision: 0 }]);
    if (revision === null) return null;
    return {
      revision,
      release: async () => {
        this.#store.write(key, null, [{ key, revision }]);
      },
    };
  }

  elect(key: string, candidate: string, ttlMs: number, onChange: (leader: Leader | null) => void): Election {
    const campaign = new Campaign({ store: this, key, candidate, ttlMs, onChange });
    this.#campaigns.add(campaign);
    return campaign;
  }

  async close(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    for (const campaign of this.#campaigns) await campaign.resign();
  }

  /** Lets other processes in. A key goes when its holder's stream ends or is silent for its ttl. */
  serve(server: ContractServer): void {
    const store = this.#store;
    server.add(Coordination, {
      hold: (requests, stream) => {
        const hold = new ServedHold(store);
        requests.onMessage((request) => {
          const revision = hold.refresh(request, this.#clock.nowMs());
          this.#arm();
          stream.write(create(HoldReplySchema, { revision: BigInt(revision ?? 0) }));
        });
        stream.onClose(() => hold.end());
      },
      watch: ({ prefix, afterRevision }, stream) => {
        const after = afterRevision === undefined ? undefined : Number(afterRevision);
        stream.onClose(store.watch(prefix, (event) => stream.write(messageOfEvent(event)), after));
      },
      get: ({ key }) => {
        const found = store.get(key);
        return create(GetReplySchema, found ? { found: changeOf(found) } : {});
      },
      compareAndSet: ({ key, value, conditions }) => {
        const wanted = conditions.map((condition) => ({ key: condition.key, revision: Number(condition.revision) }));
        return create(CompareAndSetReplySchema, { revision: BigInt(store.write(key, value ?? null, wanted) ?? 0) });
      },
    });
  }

  /** One timer for whichever lease runs out next. */
  #arm(): void {
    if (this.#timer) return;
    const next = this.#store.nextExpiryMs();
    if (next === null) return;
    const expire = () => {
      this.#timer = null;
      this.#store.expire(this.#clock.nowMs());
      this.#arm();
    };
    this.#timer = setTimeout(expire, Math.max(1, next - this.#clock.nowMs())).unref();
  }
}

/** One key held over a stream. Its holder repeats it to refresh the lease; that alone takes nothing from a successor. */
class ServedHold {
  readonly #store: KeyStore;
  #lease: number | null = null;
  #revision: number | null = null;
  #value: Uint8Array | null = null;

  constructor(store: KeyStore) {
    this.#store = store;
  }

  /** Revision of the holder's write; null: refused. */
  refresh({ key, value, ttlMs, createOnly }: HoldRequest, nowMs: number): number | null {
    if (this.#lease === null || !this.#store.refresh(this.#lease, nowMs)) {
      // At first, or when the lease ran out while its holder was stopped, and it has come back.
      this.#lease = this.#store.grant(Math.max(1, ttlMs), nowMs);
      this.#revision = this.#store.write(key, value, createOnly ? [{ key, revision: 0 }] : [], this.#lease);
      this.#value = value;
    } else if (this.#value === null || Buffer.compare(this.#value, value) !== 0) {
      this.#value = value;
      const own = [{ key, revision: this.#revision ?? -1 }];
      this.#revision = this.#store.write(key, value, own, this.#lease) ?? this.#revision;
    }
    return this.#revision;
  }

  end(): void {
    if (this.#lease !== null) this.#store.revoke(this.#lease);
  }
}

function changeOf({ key, value, revision }: KeyValue) {
  return create(KeyChangeSchema, { key, value, revision: BigInt(revision) });
}

function messageOfEvent(event: WatchEvent): WatchReply {
  const revision = BigInt(event.revision);
  if (event.kind === 'snapshot')
    return create(WatchReplySchema, { snapshot: true, revision, changes: event.entries.map(changeOf) });
  if (event.kind === 'put') return create(WatchReplySchema, { revision, changes: [changeOf(event)] });
  return create(WatchReplySchema, {
    revision,
    changes: [create(KeyChangeSchema, { key: event.key, revision, deleted: true })],
  });
}
