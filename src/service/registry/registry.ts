// Owns the instances that a service replica knows, from registration to removal, and the view that routing gets. Pure:
// what happens is told to it, with the time; what is to be done about it is what its methods return.
import type { Heartbeat } from '../../contract/generated/xllm_pb.js';
import type { InstanceRecord } from '../../coordination/instance-record.ts';
import type { ClusterView, InstanceState } from './cluster-view.ts';
import { Instance } from './instance.ts';
import { defaultHealthLimits, type Health, type HealthEvent, type HealthLimits, nextHealth } from './instance-state.ts';
import { type KvEvents, KvIndex } from './kv-index.ts';
import type { LoadJournal } from './load-journal.ts';

export type RegistryChange =
  /** Connect to it. */
  | { readonly kind: 'joined'; readonly record: InstanceRecord }
  /** Disconnect: what still runs there is lost. */
  | { readonly kind: 'left'; readonly record: InstanceRecord; readonly reason: string }
  /** It takes nothing new: what runs there is to go on elsewhere. */
  | { readonly kind: 'draining'; readonly record: InstanceRecord }
  | {
      readonly kind: 'state';
      readonly record: InstanceRecord;
      readonly from: InstanceState;
      readonly to: InstanceState;
      readonly reason: string;
    };

/** One life of one instance. Whatever names another life changes nothing. */
export interface LifeId {
  readonly name: string;
  readonly incarnation: string;
}

/** A tick that comes later than this after its time: this process stood still, and nobody's silence counts. */
const MAX_TICK_LATENESS_MS = 500;

export class Registry {
  readonly #instances = new Map<string, Instance>();
  readonly #index = new KvIndex();
  readonly #limits: HealthLimits;
  readonly #tickMs: number;
  #lastTickMs: number | null = null;

  /** `tickMs`: how often `tick` will be called. */
  constructor(tickMs: number, limits: HealthLimits = defaultHealthLimits) {
    this.#tickMs = tickMs;
    this.#limits = limits;
  }

  /** The coordinator lists a record: a new instance, a new life of a known one, or the same one again. */
  registered(record: InstanceRecord, nowMs: number): RegistryChange[] {
    const known = this.#instances.get(record.name);
    if (known?.record.incarnation === record.incarnation && known.record.address === record.address) {
      known.record = record;
      return this.#advance(known, { type: 'registered' }, nowMs);
    }
    const changes = known ? this.#remove(known, 'a new life of it has registered') : [];
    this.#instances.set(record.name, new Instance(record, nowMs));
    return [...changes, { kind: 'joined', record }];
  }

  /** The coordinator no longer lists it; `answered`: a call made since then. One that drains has left in good order. */
  unregistered(life: LifeId, answered: boolean, nowMs: number): RegistryChange[] {
    const instance = this.#find(life);
    if (!instance) return [];
    if (!answered && instance.isDraining) return this.#remove(instance, 'it has drained and left');
    return this.#advance(instance, { type: 'unregistered', answered }, nowMs);
  }

  heartbeat(life: LifeId, beat: Heartbeat, nowMs: number): RegistryChange[] {
    const instance = this.#find(life);
    if (!instance || beat.incarnation !== life.incarnation) return [];
    const wasDraining = instance.isDraining;
    instance.take(beat, nowMs);
    const changes = this.#advance(instance, { type: 'heartbeat', stalledMs: beat.status?.stalledMs ?? 0 }, nowMs);
    if (instance.isDraining && !wasDraining) changes.push({ kind: 'draining', record: instance.record });
    return changes;
  }

  /** False: some events before these are missing, or the life is not known. */
  kvEvents(life: LifeId, events: KvEvents): boolean {
    return this.#find(life) !== null && this.#index.apply(life.name, events);
  }

  /** Number of the last cache event taken in; 0: a snapshot is needed. */
  kvNumber(name: string): number {
    return this.#index.numberOf(name);
  }

  /** Where what is sent over the new connection is to be written down; null: the life is not known. */
  connected(life: LifeId): LoadJournal | null {
    return this.#find(life)?.connected() ?? null;
  }

  /** One that drains and is not listed any more has left in good order. */
  disconnected(life: LifeId): RegistryChange[] {
    const instance = this.#find(life);
    instance?.disconnected();
    return instance?.isDraining && !instance.health.isLeased ? this.#remove(instance, 'it has drained and left') : [];
  }

  /** To be called every `tickMs`. */
  tick(nowMs: number): RegistryChange[] {
    const lateMs = this.#lastTickMs === null ? 0 : nowMs - this.#lastTickMs - this.#tickMs;
    this.#lastTickMs = nowMs;
    const excusedMs = lateMs > MAX_TICK_LATENESS_MS ? lateMs : 0;
    return [...this.#instances.values()].flatMap((instance) => {
      const { health } = instance;
      if (excusedMs > 0) instance.health = { ...health, lastHeardMs: Math.min(nowMs, health.lastHeardMs + excusedMs) };
      return this.#advance(instance, { type: 'tick' }, nowMs);
    });
  }

  record(name: string): InstanceRecord | null {
    return this.#instances.get(name)?.record ?? null;
  }

  /** The latest heartbeat of each instance that is connected. */
  beats(): { readonly name: string; readonly beat: Heartbeat | null }[] {
    return [...this.#instances.values()]
      .filter(({ isConnected }) => isConnected)
      .map(({ record, beat }) => ({ name: record.name, beat }));
  }

  view(nowMs: number): ClusterView {
    const index = this.#index;
    const instances = [...this.#instances.values()]
      .map((instance) => instance.view(nowMs, index.numBlocks(instance.record.name)))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
    return { nowMs, instances, prefixBlocks: (name, digests) => index.prefixBlocks(name, digests) };
  }

  #find({ name, incarnation }: LifeId): Instance | null {
    const instance = this.#instances.get(name);
    return instance?.record.incarnation === incarnation ? instance : null;
  }

  #advance(instance: Instance, event: HealthEvent, nowMs: number): RegistryChange[] {
    const before = instance.health;
    const after = nextHealth(before, event, nowMs, this.#limits);
    if (!after) return this.#remove(instance, 'it has been silent for too long');
    instance.health = after;
    if (after.state === before.state) return [];
    const change = { kind: 'state', record: instance.record, from: before.state, to: after.state } as const;
    return [{ ...change, reason: reasonOf(after, nowMs, this.#limits) }];
  }

  #remove({ record }: Instance, reason: string): RegistryChange[] {
    this.#instances.delete(record.name);
    this.#index.remove(record.name);
    return [{ kind: 'left', record, reason }];
  }
}

function reasonOf(health: Health, nowMs: number, limits: HealthLimits): string {
  switch (health.state) {
    case 'ACTIVE':
      return 'it is registered and answers';
    case 'LEASE_LOST':
      return 'the coordinator does not list it, but it answers';
    case 'SUSPECT':
      return health.stalledMs > limits.stalledMs
        ? `it has work but has finished no step for ${Math.round(health.stalledMs)} ms`
        : `nothing was heard of it for ${Math.round(nowMs - health.lastHeardMs)} ms`;
  }
}
