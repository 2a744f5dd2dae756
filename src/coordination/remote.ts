// Owns another process's side of the embedded coordinator: the same interface over the contract, again after breaks.
import { create } from '@bufbuild/protobuf';
import {
  CompareAndSetRequestSchema,
  Coordination,
  GetRequestSchema,
  type HoldRequest,
  HoldRequestSchema,
  KeyConditionSchema,
  type WatchReply,
  WatchRequestSchema,
} from '../contract/generated/xllm_pb.js';
import {
  type ClientOf,
  ContractClient,
  type ContractSecurity,
  type DuplexHandle,
  type StreamHandle,
} from '../contract/grpc.ts';
import type { Address } from '../contract/protocol.ts';
import {
  type Condition,
  type Coordinator,
  type CoordinatorEvents,
  CoordinatorUnavailable,
  type Election,
  type HeldKey,
  type KeyValue,
  type Leader,
  silentEvents,
  type WatchEvent,
} from './coordinator.ts';
import { Campaign, type ElectionStore, type LeasedKey } from './election.ts';
import { StoreHealth } from './store-health.ts';

const RETRY_MS = 500;
const CALL_DEADLINE_MS = 5_000;

export class RemoteCoordinator implements Coordinator, ElectionStore {
  readonly #client: ClientOf<typeof Coordination>;
  readonly #health: StoreHealth;
  readonly #stops = new Set<() => void>();
  readonly #campaigns = new Set<Campaign>();

  constructor(address: Address, security: ContractSecurity = {}, events: CoordinatorEvents = silentEvents) {
    this.#client = new ContractClient(Coordination, address, security);
    this.#health = new StoreHealth(events);
  }

  hold(key: string, value: Uint8Array, ttlMs: number): HeldKey {
    let current = value;
    let stream: DuplexHandle<HoldRequest> | null = null;
    let retry: NodeJS.Timeout | null = null;
    let isReleased = false;
    const request = () => create(HoldRequestSchema, { key, value: current, ttlMs });
    const connect = () => {
      retry = null;
      stream = this.#client.duplex(
        'hold',
        () => this.#health.succeeded(),
        (error) => {
          stream = null;
          if (isReleased) return;
          this.#health.failed(error ?? 'the connection ended');
          retry = setTimeout(connect, RETRY_MS);
        },
      );
      stream.write(request());
    };
    connect();
    const refresh = setInterval(() => stream?.write(request()), ttlMs / 3);
    const release = () => {
      isReleased = true;
      clearInterval(refresh);
      if (retry) clearTimeout(retry);
      stream?.cancel();
      this.#stops.delete(release);
    };
    this.#stops.add(release);
    return {
      update: (next) => {
        current = next;
        stream?.write(request());
      },
      release: async () => release(),
    };
  }

  watch(prefix: string, onEvent: (event: WatchEvent) => void, afterRevision?: number): () => void {
    let stream: StreamHandle | null = null;
    let retry: NodeJS.Timeout | null = null;
    let isStopped = false;
    let after = afterRevision;
    const connect = () => {
      retry = null;
      const request = create(WatchRequestSchema, {
        prefix,
        ...(after === undefined ? {} : { afterRevision: BigInt(after) }),
      });
      stream = this.#client.stream(
        'watch',
        request,
        (reply) => {
          if (isStopped) return;
          this.#health.succeeded();
          for (const event of eventsOf(reply)) onEvent(event);
        },
        (error) => {
          stream = null;
          if (isStopped) return;
          this.#health.failed(error ?? 'the connection ended');
          // Who answers next may be another life of the store: its revisions are its own.
          after = undefined;
          retry = setTimeout(connect, RETRY_MS);
        },
      );
    };
    connect();
    const stop = () => {
      isStopped = true;
      if (retry) clearTimeout(retry);
      stream?.cancel();
      this.#stops.delete(stop);
    };
    this.#stops.add(stop);
    return stop;
  }

  async get(key: string): Promise<KeyValue | null> {
    const { found } = await this.#health.judge(() =>
      this.#client.call('get', create(GetRequestSchema, { key }), CALL_DEADLINE_MS),
    );
    return found ? { key: found.key, value: found.value, revision: Number(found.revision) } : null;
  }

  async compareAndSet(key: string, value: Uint8Array | null, conditions: readonly Condition[]): Promise<number | null> {
    const request = create(CompareAndSetRequestSchema, {
      key,
      ...(value === null ? {} : { value }),
      conditions: conditions.map((condition) =>
        create(KeyConditionSchema, { key: condition.key, revision: BigInt(condition.revision) }),
      ),
    });
    const { revision } = await this.#health.judge(() => this.#client.call('compareAndSet', request, CALL_DEADLINE_MS));
    return revision === 0n ? null : Number(revision);
  }

  createLeased(key: string, value: Uint8Array, ttlMs: number, onLost: () => void): Promise<LeasedKey | null> {
    const { promise, resolve, reject } = Promise.withResolvers<LeasedKey | null>();
    const request = create(HoldRequestSchema, { key, value, ttlMs, createOnly: true });
    let revision: number | null = null;
    let isReleased = false;
    const giveUp = () => {
      release();
      if (revision !== null) onLost();
      else reject(new CoordinatorUnavailable('there was no answer'));
    };
    // By this side's clock the lease runs out first: it counts from when a refresh was answered.
    let expiry = setTimeout(giveUp, ttlMs);
    const stream = this.#client.duplex(
      'hold',
      (reply) => {
        if (isReleased) return;
        clearTimeout(expiry);
        expiry = setTimeout(giveUp, ttlMs);
        this.#health.succeeded();
        const told = Number(reply.revision);
        if (revision === null && told > 0) {
          revision = told;
          resolve({ revision, release: async () => release() });
        } else if (told !== revision) {
          // Somebody else holds it, from the beginning or since this lease ran out.
          resolve(null);
          release();
          if (revision !== null) onLost();
        }
      },
      (error) => {
        if (isReleased) return;
        release();
        this.#health.failed(error ?? 'the connection ended');
        reject(new CoordinatorUnavailable(error?.message ?? 'the connection ended'));
        if (revision !== null) onLost();
      },
    );
    const release = () => {
      isReleased = true;
      clearInterval(refresh);
      clearTimeout(expiry);
      stream.cancel();
      this.#stops.delete(release);
    };
    const refresh = setInterval(() => stream.write(request), ttlMs / 3);
    this.#stops.add(release);
    stream.write(request);
    return promise;
  }

  elect(key: string, candidate: string, ttlMs: number, onChange: (leader: Leader | null) => void): Election {
    const campaign = new Campaign({ store: this, key, candidate, ttlMs, onChange });
    this.#campaigns.add(campaign);
    return campaign;
  }

  async close(): Promise<void> {
    this.#health.close();
    for (const campaign of this.#campaigns) await campaign.resign();
    for (const stop of this.#stops) stop();
    this.#client.close();
  }
}

function eventsOf({ snapshot, revision, changes }: WatchReply): WatchEvent[] {
  if (snapshot) {
    const entries = changes.map(({ key, value, revision: at }) => ({ key, value, revision: Number(at) }));
    return [{ kind: 'snapshot', revision: Number(revision), entries }];
  }
  return changes.map((change) =>
    change.deleted
      ? { kind: 'delete', key: change.key, revision: Number(change.revision) }
      : { kind: 'put', key: change.key, value: change.value, revision: Number(change.revision) },
  );
}
