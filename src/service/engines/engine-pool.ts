// Owns the engines a service knows: follows registrations, connects, reconnects, watches their progress, shows them as a view.
import type { BlockDigest } from '../../common/block-digest.ts';
import { type Clock, monotonicClock } from '../../common/clock.ts';
import type { HelloReply } from '../../contract/generated/xllm_pb.js';
import {
  type Coordinator,
  decodeRecord,
  INSTANCE_PREFIX,
  type InstanceRecord,
} from '../../coordination/coordinator.ts';
import type { EngineModel, InstanceStatus } from '../engine-client.ts';
import type { ClusterView, InstanceRole, InstanceView } from '../registry/cluster-view.ts';
import { EngineConnection } from './engine-connection.ts';

const RECONNECT_MS = 200;
/** How often an engine is asked for its status: load, progress. */
const POLL_MS = 250;

export interface HealthLimits {
  /** Nothing heard for this long: the engine is suspect, and its requests go on elsewhere. */
  readonly suspectMs: number;
  /** The same where it answers but finishes no step although it has work. */
  readonly stallMs: number;
}

export const defaultHealthLimits: HealthLimits = { suspectMs: 5_000, stallMs: 60_000 };

interface Member {
  readonly record: InstanceRecord;
  connection: EngineConnection;
  retry: NodeJS.Timeout | null;
  isPolling: boolean;
  /** Why it takes nothing new; null: it is trusted. */
  suspicion: string | null;
}

export interface EnginePoolEvents {
  onReady(model: EngineModel): void;
  onLost(record: InstanceRecord, reason: string): void;
  onSuspect(record: InstanceRecord, reason: string): void;
}

export interface EnginePoolOptions {
  readonly coordinator: Coordinator;
  readonly replica: string;
  readonly events: EnginePoolEvents;
  readonly limits?: HealthLimits;
  readonly clock?: Clock;
}

export class EnginePool {
  readonly #members = new Map<string, Member>();
  readonly #options: EnginePoolOptions;
  readonly #limits: HealthLimits;
  readonly #clock: Clock;
  readonly #stopWatching: () => void;
  readonly #poll: NodeJS.Timeout;
  readonly #listeners = new Set<() => void>();

  constructor(options: EnginePoolOptions) {
    this.#options = options;
    this.#limits = options.limits ?? defaultHealthLimits;
    this.#clock = options.clock ?? monotonicClock;
    this.#stopWatching = options.coordinator.watch(INSTANCE_PREFIX, ({ key, value }) => {
      const record = value && decodeRecord(value);
      if (record) this.#join(key, record);
      else this.#leave(key, 'it left');
    });
    this.#poll = setInterval(() => this.#pollAll(), POLL_MS).unref();
  }

  /** Of the engine that takes the longest sequences; null while none is connected. */
  get model(): EngineModel | null {
    const models = this.#sorted().flatMap(({ connection }) => connection.model ?? []);
    return models.reduce<EngineModel | null>((best, model) => {
      return best && best.maxModelLen >= model.maxModelLen ? best : model;
    }, null);
  }

  connection(name: string): EngineConnection | null {
    return this.#sorted().find(({ record }) => record.name === name)?.connection ?? null;
  }

  view(): ClusterView {
    const members = this.#sorted();
    const instances = members.flatMap((member) => {
      const { hello } = member.connection;
      return hello ? [viewOf(member, hello)] : [];
    });
    return {
      nowMs: this.#clock.nowMs(),
      instances,
      prefixBlocks: (name, digests: readonly BlockDigest[]) =>
        members.find(({ record }) => record.name === name)?.connection.prefixBlocks(digests) ?? 0,
    };
  }

  async statuses(): Promise<readonly InstanceStatus[]> {
    const connected = this.#sorted().filter(({ connection }) => connection.model !== null);
    return Promise.all(
      connected.map(async ({ record, connection }) => {
        // Unreachable right now: for a reader of the status that is the same as no answer.
        const status = await connection.status().catch(() => null);
        return { instance: record.name, status };
      }),
    );
  }

  /** Calls back whenever an engine has become able to take requests. Returns what ends it. */
  onAvailable(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    clearInterval(this.#poll);
    this.#stopWatching();
    for (const key of this.#members.keys()) this.#leave(key, 'the service closes');
  }

  #sorted(): Member[] {
    return [...this.#members.values()].sort((a, b) => (a.record.name < b.record.name ? -1 : 1));
  }

  #join(key: string, record: InstanceRecord): void {
    const before = this.#members.get(key);
    if (before?.record.incarnation === record.incarnation && before.record.address === record.address) return;
    this.#leave(key, 'it was replaced');
    const connection = new EngineConnection(record.address, this.#options.replica, this.#clock);
    const member: Member = { record, connection, retry: null, isPolling: false, suspicion: null };
    this.#members.set(key, member);
    this.#connect(key, member);
  }

  #connect(key: string, member: Member): void {
    const { events, replica } = this.#options;
    member.retry = null;
    const again = (reason: string) => {
      if (this.#members.get(key) !== member) return;
      events.onLost(member.record, reason);
      member.connection.close();
      member.connection = new EngineConnection(member.record.address, replica, this.#clock);
      member.retry = setTimeout(() => this.#connect(key, member), RECONNECT_MS);
    };
    member.connection
      .open(() => again('its connection broke'))
      .then(
        (model) => {
          member.suspicion = null;
          events.onReady(model);
          this.#announce();
        },
        (error: unknown) => again(error instanceof Error ? error.message : String(error)),
      );
  }

  #leave(key: string, reason: string): void {
    const member = this.#members.get(key);
    if (!member) return;
    this.#members.delete(key);
    // While it reconnects its loss has been told already.
    const isNews = member.retry === null;
    if (member.retry) clearTimeout(member.retry);
    member.connection.close();
    if (isNews) this.#options.events.onLost(member.record, reason);
  }

  #pollAll(): void {
    for (const member of this.#members.values()) {
      const { connection } = member;
      if (!connection.model) continue;
      this.#judge(member);
      if (member.isPolling) continue;
      member.isPolling = true;
      connection
        .status()
        .catch(() => null)
        .finally(() => {
          member.isPolling = false;
          if (connection === member.connection) this.#judge(member);
        })
        .catch(() => {
          // A listener's fault is not the poll's: the next poll judges anew.
        });
    }
  }

  #judge(member: Member): void {
    const { connection, record } = member;
    const { suspectMs, stallMs } = this.#limits;
    const stalledMs = connection.journal.status?.stalledMs ?? 0;
    let suspicion: string | null = null;
    if (connection.silentMs > suspectMs)
      suspicion = `nothing was heard of it for ${Math.round(connection.silentMs)} ms`;
    else if (stalledMs > stallMs) suspicion = `it has work but has finished no step for ${stalledMs} ms`;
    const before = member.suspicion;
    member.suspicion = suspicion;
    if (suspicion !== null && before === null) {
      this.#options.events.onSuspect(record, suspicion);
      connection.giveUp(suspicion);
    } else if (suspicion === null && before !== null) this.#announce();
  }

  #announce(): void {
    for (const listener of this.#listeners) listener();
  }
}

const roleNames: ReadonlySet<string> = new Set<InstanceRole>(['prefill', 'decode', 'encode', 'mix']);

function viewOf({ record, connection, suspicion }: Member, hello: HelloReply): InstanceView {
  const { journal } = connection;
  const stepTime = journal.status?.stepTime ?? hello.stepTime ?? null;
  return {
    name: record.name,
    incarnation: record.incarnation,
    model: hello.model,
    roles: record.roles.filter((role): role is InstanceRole => roleNames.has(role)),
    state: suspicion === null ? 'ACTIVE' : 'SUSPECT',
    isSchedulable: suspicion === null && journal.status?.draining !== true,
    numericsId: hello.numericsId,
    capacity: {
      maxNumSeqs: hello.maxNumSeqs,
      maxNumBatchedTokens: hello.maxNumBatchedTokens,
      numKvBlocks: hello.numKvBlocks,
      blockTokens: hello.blockTokens,
      maxModelLen: hello.maxModelLen,
    },
    ...journal.view(),
    numInFlight: journal.numInFlight,
    stepTime,
    profile: [],
    recentSteps: [],
    silentMs: connection.silentMs,
  };
}
