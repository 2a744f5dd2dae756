// Owns the engines a service knows: follows registrations, connects, reconnects, and offers them as one EngineClient.
import type { Refusal } from '../../common/errors.ts';
import type { StatusReply } from '../../contract/generated/xllm_pb.js';
import type { Coordinator } from '../../coordination/coordinator.ts';
import type { InstanceRecord } from '../../coordination/instance-record.ts';
import type { EngineClient, EngineDelta, EngineHandle, EngineModel, EngineRequest } from '../engine-client.ts';
import { EngineConnection } from './engine-connection.ts';
import { followRecords } from './follow-records.ts';

const RECONNECT_MS = 200;

interface Member {
  readonly record: InstanceRecord;
  connection: EngineConnection;
  retry: NodeJS.Timeout | null;
}

export interface EnginePoolEvents {
  onReady(model: EngineModel): void;
  onLost(record: InstanceRecord, reason: string): void;
}

export class EnginePool implements EngineClient {
  readonly #members = new Map<string, Member>();
  readonly #replica: string;
  readonly #events: EnginePoolEvents;
  readonly #stopWatching: () => void;

  constructor(coordinator: Coordinator, replica: string, events: EnginePoolEvents) {
    this.#replica = replica;
    this.#events = events;
    this.#stopWatching = followRecords(coordinator, {
      onListed: (record) => this.#join(record.name, record),
      onUnlisted: (name) => this.#leave(name, 'it left'),
      onIgnored: () => {},
    });
  }

  get model(): EngineModel | null {
    return this.#ready()?.model ?? null;
  }

  get numRequests(): number {
    let sum = 0;
    for (const { connection } of this.#members.values()) sum += connection.numRequests;
    return sum;
  }

  async submit(request: EngineRequest, onDelta: (delta: EngineDelta) => void): Promise<EngineHandle | Refusal> {
    const connection = this.#ready();
    if (!connection)
      return { refused: 'engine_unavailable', message: 'the engine is starting or restarting; retry', retryAfterS: 1 };
    return connection.submit(request, onDelta);
  }

  async status(): Promise<StatusReply | null> {
    try {
      return (await this.#ready()?.status()) ?? null;
    } catch {
      // Unreachable right now: for a reader of the status that is the same as not connected.
      return null;
    }
  }

  async drain(deadlineMs: number): Promise<number> {
    const connection = this.#ready();
    return connection ? connection.drain(deadlineMs) : 0;
  }

  close(): void {
    this.#stopWatching();
    for (const key of this.#members.keys()) this.#leave(key, 'the service closes');
  }

  /** The instance that takes new requests. One engine today: routing policies choose here. */
  #ready(): EngineConnection | null {
    for (const { connection } of this.#members.values()) if (connection.model) return connection;
    return null;
  }

  #join(key: string, record: InstanceRecord): void {
    const before = this.#members.get(key);
    if (before?.record.incarnation === record.incarnation && before.record.address === record.address) return;
    this.#leave(key, 'it was replaced');
    const member: Member = { record, connection: new EngineConnection(record.address, this.#replica), retry: null };
    this.#members.set(key, member);
    this.#connect(key, member);
  }

  #connect(key: string, member: Member): void {
    member.retry = null;
    const again = (reason: string) => {
      if (this.#members.get(key) !== member) return;
      this.#events.onLost(member.record, reason);
      member.connection.close();
      member.connection = new EngineConnection(member.record.address, this.#replica);
      member.retry = setTimeout(() => this.#connect(key, member), RECONNECT_MS);
    };
    member.connection
      .open(() => again('its connection broke'))
      .then(
        (model) => this.#events.onReady(model),
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
    if (isNews) this.#events.onLost(member.record, reason);
  }
}
