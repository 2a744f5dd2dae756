// Owns the connections to the engines of a cluster: follows registrations, connects, reconnects, tells the registry what
// is heard, and does what the registry finds.
import { setTimeout as sleep } from 'node:timers/promises';
import { type Clock, monotonicClock } from '../../common/clock.ts';
import type { ContractSecurity } from '../../contract/grpc.ts';
import type { Coordinator } from '../../coordination/coordinator.ts';
import type { InstanceRecord } from '../../coordination/instance-record.ts';
import type { EngineModel, InstanceStatus } from '../engine-client.ts';
import type { ClusterView } from '../registry/cluster-view.ts';
import { canServe } from '../registry/groups.ts';
import { defaultHealthLimits, type HealthLimits } from '../registry/instance-state.ts';
import { Registry, type RegistryChange } from '../registry/registry.ts';
import { EngineConnection } from './engine-connection.ts';
import { followRecords } from './follow-records.ts';

const RECONNECT_FIRST_MS = 200;
const RECONNECT_MAX_MS = 2_000;
const TICK_MS = 250;
/** Asked before an instance that the coordinator has dropped is believed to be gone. */
const NUM_PROBES = 2;
const PROBE_MS = 1_000;
const PROBE_PAUSE_MS = 100;

interface Member {
  readonly record: InstanceRecord;
  connection: EngineConnection;
  retry: NodeJS.Timeout | null;
  retryMs: number;
  /** Its loss has been told: the tries to reach it again are no news. */
  isLossTold: boolean;
}

export interface EnginePoolEvents {
  onReady(model: EngineModel): void;
  onLost(record: InstanceRecord, reason: string): void;
  onSuspect(record: InstanceRecord, reason: string): void;
  /** It has been told to leave. */
  onDrained?(record: InstanceRecord): void;
  /** A key of the coordinator that is no record, or one of another version; told once. */
  onIgnored(key: string, why: string): void;
}

export interface EnginePoolOptions {
  readonly coordinator: Coordinator;
  readonly replica: string;
  readonly events: EnginePoolEvents;
  readonly security?: ContractSecurity;
  readonly limits?: HealthLimits;
  readonly clock?: Clock;
}

export class EnginePool {
  readonly #members = new Map<string, Member>();
  readonly #registry: Registry;
  readonly #options: EnginePoolOptions;
  readonly #clock: Clock;
  readonly #stopFollowing: () => void;
  readonly #tick: NodeJS.Timeout;
  readonly #listeners = new Set<() => void>();
  readonly #drainListeners = new Set<(instance: string) => void>();
  /** By name: probes under way; a new registration calls them off. */
  readonly #probes = new Map<string, symbol>();
  #isClosed = false;

  constructor(options: EnginePoolOptions) {
    this.#options = options;
    this.#clock = options.clock ?? monotonicClock;
    this.#registry = new Registry(TICK_MS, options.limits ?? defaultHealthLimits);
    this.#stopFollowing = followRecords(options.coordinator, {
      onListed: (record) => {
        this.#probes.delete(record.name);
        this.#do(this.#registry.registered(record, this.#clock.nowMs()));
      },
      onUnlisted: (name) => void this.#probe(name),
      onIgnored: (key, why) => options.events.onIgnored(key, why),
    });
    this.#tick = setInterval(() => this.#do(this.#registry.tick(this.#clock.nowMs())), TICK_MS).unref();
  }

  /** By model that could be served now: that of the instance which takes the longest sequences. */
  get models(): readonly EngineModel[] {
    const { instances } = this.view();
    const byName = new Map<string, EngineModel>();
    for (const { connection } of this.#members.values()) {
      const { model } = connection;
      if (!model) continue;
      const best = byName.get(model.model);
      if (!best || best.maxModelLen < model.maxModelLen) byName.set(model.model, model);
    }
    return [...byName.values()]
      .filter(({ model }) => canServe(instances, model))
      .sort((a, b) => (a.model < b.model ? -1 : 1));
  }

  connection(name: string): EngineConnection | null {
    return this.#members.get(name)?.connection ?? null;
  }

  view(): ClusterView {
    return this.#registry.view(this.#clock.nowMs());
  }

  async statuses(): Promise<readonly InstanceStatus[]> {
    const connected = [...this.#members.values()].filter(({ connection }) => connection.model !== null);
    return Promise.all(
      connected
        .sort((a, b) => (a.record.name < b.record.name ? -1 : 1))
        .map(async ({ record, connection }) => {
          // Unreachable right now: for a reader of the status that is the same as no answer.
          const status = await connection.status().catch(() => null);
          return { instance: record.name, model: record.model, status };
        }),
    );
  }

  /** Calls back whenever an engine has become able to take requests. Returns what ends it. */
  onAvailable(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls back whenever an instance has begun to drain. Returns what ends it. */
  onDraining(listener: (instance: string) => void): () => void {
    this.#drainListeners.add(listener);
    return () => this.#drainListeners.delete(listener);
  }

  /** Tells an instance to take nothing new and to leave when it is empty. Rejects when it cannot be told. */
  async drain(name: string): Promise<void> {
    const member = this.#members.get(name);
    if (!member?.connection.model) throw new Error(`${name} is not connected`);
    await member.connection.drain();
    this.#options.events.onDrained?.(member.record);
  }

  close(): void {
    this.#isClosed = true;
    clearInterval(this.#tick);
    this.#stopFollowing();
    for (const member of this.#members.values()) this.#leave(member, 'the service closes');
  }

  #do(changes: readonly RegistryChange[]): void {
    for (const change of changes) {
      const { record } = change;
      const member = this.#members.get(record.name);
      if (change.kind === 'joined') this.#join(record);
      else if (change.kind === 'left') {
        if (member?.record.incarnation === record.incarnation) this.#leave(member, change.reason);
      } else if (change.kind === 'draining') {
        for (const listener of this.#drainListeners) listener(record.name);
      } else if (change.to === 'SUSPECT') {
        this.#options.events.onSuspect(record, change.reason);
        member?.connection.giveUp(change.reason);
      } else if (change.from === 'SUSPECT') this.#announce();
    }
  }

  /** The coordinator has dropped it: perhaps it is gone, perhaps only its registration is. */
  async #probe(name: string): Promise<void> {
    const record = this.#registry.record(name);
    if (!record) return;
    const probe = Symbol(name);
    this.#probes.set(name, probe);
    let isAnswered = false;
    for (let i = 0; i < NUM_PROBES && !isAnswered; i++) {
      if (i > 0) await sleep(PROBE_PAUSE_MS);
      const connection = this.#members.get(name)?.connection;
      const answer = connection?.model ? await connection.status(PROBE_MS).catch(() => null) : null;
      isAnswered = answer !== null;
    }
    if (this.#isClosed || this.#probes.get(name) !== probe) return;
    this.#probes.delete(name);
    this.#do(this.#registry.unregistered(record, isAnswered, this.#clock.nowMs()));
  }

  #join(record: InstanceRecord): void {
    const connection = this.#newConnection(record);
    const member: Member = { record, connection, retry: null, retryMs: RECONNECT_FIRST_MS, isLossTold: false };
    this.#members.set(record.name, member);
    this.#connect(member);
  }

  #newConnection(record: InstanceRecord): EngineConnection {
    const { replica, security = {} } = this.#options;
    const registry = this.#registry;
    return new EngineConnection({
      record,
      replica,
      security,
      clock: this.#clock,
      host: {
        onOpened: () => registry.connected(record),
        onBroken: () => {
          const member = this.#members.get(record.name);
          if (member?.record === record) this.#retry(member, 'its connection broke');
        },
        onHeartbeat: (beat) => this.#do(registry.heartbeat(record, beat, this.#clock.nowMs())),
        onKvEvents: (events) => registry.kvEvents(record, events),
        kvNumber: () => registry.kvNumber(record.name),
      },
    });
  }

  #connect(member: Member): void {
    member.retry = null;
    const { connection } = member;
    connection.open().then(
      (model) => {
        member.retryMs = RECONNECT_FIRST_MS;
        member.isLossTold = false;
        this.#options.events.onReady(model);
        this.#announce();
      },
      (error: unknown) => {
        if (member.connection === connection)
          this.#retry(member, error instanceof Error ? error.message : String(error));
      },
    );
  }

  #retry(member: Member, reason: string): void {
    if (this.#members.get(member.record.name) !== member) return;
    if (!member.isLossTold) this.#options.events.onLost(member.record, reason);
    member.isLossTold = true;
    member.connection.close();
    this.#do(this.#registry.disconnected(member.record));
    // It may have been given up just now.
    if (this.#members.get(member.record.name) !== member) return;
    member.connection = this.#newConnection(member.record);
    member.retry = setTimeout(() => this.#connect(member), member.retryMs);
    member.retryMs = Math.min(RECONNECT_MAX_MS, 2 * member.retryMs);
  }

  #leave(member: Member, reason: string): void {
    this.#members.delete(member.record.name);
    if (member.retry) clearTimeout(member.retry);
    member.connection.close();
    if (!member.isLossTold) this.#options.events.onLost(member.record, reason);
  }

  #announce(): void {
    for (const listener of this.#listeners) listener();
  }
}
