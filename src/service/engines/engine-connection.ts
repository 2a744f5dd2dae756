// Owns one connection to one life of an engine: hello, the step stream, status polls, and the requests it carries.
import { create } from '@bufbuild/protobuf';
import { digestsOfBytes } from '../../common/block-digest.ts';
import type { Clock } from '../../common/clock.ts';
import type { Refusal } from '../../common/errors.ts';
import { bytesOfInt32, int32OfBytes } from '../../contract/codec.ts';
import {
  ControlRequest_Action,
  ControlRequestSchema,
  DrainRequestSchema,
  Engine,
  type HandOffTarget,
  HandOffTargetSchema,
  type Heartbeat,
  HeartbeatsRequestSchema,
  type HelloReply,
  HelloRequestSchema,
  type KvEventBatch,
  KvEventsRequestSchema,
  type StatusReply,
  StatusRequestSchema,
  type StepBatch,
  StepsRequestSchema,
  SubmitRequestSchema,
} from '../../contract/generated/xllm_pb.js';
import { type ClientOf, ContractClient, type ContractSecurity, type StreamHandle } from '../../contract/grpc.ts';
import { BUILD, PROTOCOL_VERSION } from '../../contract/protocol.ts';
import type { InstanceRecord } from '../../coordination/instance-record.ts';
import type { EngineDelta, EngineModel, EngineRequest } from '../engine-client.ts';
import type { KvEvents } from '../registry/kv-index.ts';
import { type JournalEntry, LoadJournal } from '../registry/load-journal.ts';
import { deltaOfMessage, emptyDelta, forEachToken } from './delta-codec.ts';
import type { SourceLeg, TargetLeg } from './pair-attempt.ts';

const CALL_DEADLINE_MS = 10_000;
const STATUS_DEADLINE_MS = 5_000;
/** A request this young may be on its way still. */
const ORPHAN_AGE_MS = 2_000;
/** Until cache events are asked for again where their stream alone has ended. */
const KV_RETRY_MS = 500;

/** One try at a request. Tokens of a superseded one are dropped wherever they turn up. */
export interface Attempt extends EngineRequest {
  /** From 1 on. */
  readonly attempt: number;
  /** Tokens of earlier attempts, by seed. */
  readonly generatedIds: readonly Int32Array[];
  /** Tokens whose KV the engine is taken to hold. */
  readonly cachedTokens: number;
  /** The instance that goes on after the first token; null: the same. */
  readonly handOff: HandOffAddress | null;
  /** Where the engine's spans belong; absent: no traces. */
  readonly traceparent?: string;
}

export type HandOffAddress = Pick<InstanceRecord, 'name' | 'incarnation' | 'address'>;

/** A request the engine has admitted and not finished. */
interface Carried {
  readonly requestId: string;
  readonly attempt: number;
  readonly entry: JournalEntry;
  /** It comes from another instance: that this one knows nothing of it means nothing yet. */
  isExpected: boolean;
  /** Since when this instance should know of it. */
  sinceMs: number;
  /** Status replies in a row that know of no sequence at all. */
  numDenials: number;
  readonly onDelta: (delta: EngineDelta) => void;
  /** Choices that have not finished yet. */
  readonly open: Set<number>;
}

/** What a connection tells of, to whoever keeps the instance. */
export interface ConnectionHost {
  /** Where what is sent over it is written down; null: the instance is not wanted any more. */
  onOpened(): LoadJournal | null;
  /** The connection has broken; called once, after `onOpened`, unless it was closed. */
  onBroken(): void;
  onHeartbeat(beat: Heartbeat): void;
  /** False: events before these are missing. */
  onKvEvents(events: KvEvents): boolean;
  /** Number of the last event taken in; 0: none. */
  kvNumber(): number;
}

export interface ConnectionOptions {
  readonly record: Pick<InstanceRecord, 'name' | 'incarnation' | 'address'>;
  readonly replica: string;
  readonly security: ContractSecurity;
  readonly clock: Clock;
  readonly host: ConnectionHost;
}

export class EngineConnection {
  readonly #client: ClientOf<typeof Engine>;
  readonly #replica: string;
  readonly #incarnation: string;
  readonly #clock: Clock;
  readonly #host: ConnectionHost;
  /** By request and attempt. */
  readonly #carried = new Map<string, Carried>();
  /** By what the engine calls them: sequences that have sent a delta and go on. */
  readonly #bySequence = new Map<number, { readonly carried: Carried; readonly choice: number }>();
  #journal = new LoadJournal();
  #streams: StreamHandle[] = [];
  #kvEvents: StreamHandle | null = null;
  #kvRetry: NodeJS.Timeout | null = null;
  #model: EngineModel | null = null;
  #closed = false;

  constructor({ record, replica, security, clock, host }: ConnectionOptions) {
    this.#client = new ContractClient(Engine, record.address, security);
    this.#replica = replica;
    this.#incarnation = record.incarnation;
    this.#clock = clock;
    this.#host = host;
  }

  /** null before `open` has resolved and after the connection has broken. */
  get model(): EngineModel | null {
    return this.#model;
  }

  get numRequests(): number {
    return this.#carried.size;
  }

  /**
   * Says hello, and follows steps, heartbeats and cache events. Rejects when the engine cannot be reached, speaks
   * another protocol, or is another life than the one that was meant.
   */
  async open(): Promise<EngineModel> {
    const hello = await this.#client.call(
      'hello',
      create(HelloRequestSchema, {
        protocolMin: PROTOCOL_VERSION,
        protocolMax: PROTOCOL_VERSION,
        build: BUILD,
        replica: this.#replica,
      }),
      CALL_DEADLINE_MS,
    );
    if (hello.protocol !== PROTOCOL_VERSION) {
      throw new Error(
        `engine ${hello.instance} (${hello.build}) speaks protocol ${hello.protocol}, this service ${PROTOCOL_VERSION}`,
      );
    }
    if (hello.incarnation !== this.#incarnation) throw new Error('another life of the engine answers at its address');
    const journal = this.#host.onOpened();
    if (!journal || this.#closed) throw new Error('it has left');
    this.#journal = journal;
    const life = { replica: this.#replica, incarnation: this.#incarnation };
    const steps = this.#client.stream(
      'steps',
      create(StepsRequestSchema, life),
      (batch) => this.#deliver(batch),
      () => {
        this.#model = null;
        this.#failAll('the engine stopped while the request ran');
        if (!this.#closed) this.#host.onBroken();
      },
    );
    const beats = this.#client.stream(
      'heartbeats',
      create(HeartbeatsRequestSchema, life),
      (beat) => this.#hear(beat),
      () => {
        // Silence tells.
      },
    );
    this.#streams = [steps, beats];
    this.#followKv();
    this.#model = modelOf(hello);
    return this.#model;
  }

  /**
   * Refused with `engine_lost`: it is not known whether the engine took it. Where the connection breaks meanwhile,
   * `onDelta` hears of it first.
   */
  async submit(request: Attempt, onDelta: (delta: EngineDelta) => void): Promise<SourceLeg | Refusal> {
    const { requestId, attempt, generatedIds } = request;
    const key = keyOf(requestId, attempt);
    if (this.#carried.has(key))
      return { refused: 'invalid_request', message: `request id ${requestId} is already running` };
    const numTokens = request.promptIds.length + Math.max(0, ...generatedIds.map((ids) => ids.length));
    const numNewTokens = Math.max(0, numTokens - request.cachedTokens);
    const sinceMs = this.#clock.nowMs();
    const entry = this.#journal.sent(sinceMs, request.seeds.length, numNewTokens);
    // Registered before the call: the first tokens may overtake the reply.
    const open = new Set(request.seeds.keys());
    const carried = { requestId, attempt, entry, isExpected: false, sinceMs, numDenials: 0, onDelta, open };
    this.#carried.set(key, carried);
    const { handOff } = request;
    const message = create(SubmitRequestSchema, {
      requestId,
      attempt,
      replica: this.#replica,
      incarnation: this.#incarnation,
      model: request.model,
      promptIds: bytesOfInt32(request.promptIds),
      generatedIds: generatedIds.some((ids) => ids.length > 0) ? generatedIds.map(bytesOfInt32) : [],
      sampling: request.sampling,
      maxTokens: request.maxTokens,
      seeds: [...request.seeds],
      priority: request.priority,
      offline: request.offline,
      cacheSalt: request.cacheSalt,
      deadlineMs: request.deadlineMs,
      ttftSloMs: request.ttftSloMs,
      tpotSloMs: request.tpotSloMs,
      traceparent: request.traceparent ?? '',
      ...(handOff ? { handOff: targetOf(handOff) } : {}),
    });
    try {
      const reply = await this.#client.call('submit', message, CALL_DEADLINE_MS);
      if (reply.refused !== '') {
        this.#forget(key, carried);
        const wait = reply.retryAfterS > 0 ? { retryAfterS: reply.retryAfterS } : {};
        return { refused: reply.refused as Refusal['refused'], message: reply.message, ...wait };
      }
    } catch (error) {
      this.#forget(key, carried);
      this.#control(carried, ControlRequest_Action.ABORT);
      const detail = error instanceof Error ? error.message : String(error);
      return { refused: 'engine_lost', message: `the engine did not take the request (${detail})`, retryAfterS: 1 };
    }
    return this.#handleOf(carried);
  }

  /** Hears what this instance says of an attempt that another one will hand over to it. */
  expect(request: Attempt, onDelta: (delta: EngineDelta) => void): TargetLeg {
    const { requestId, attempt, seeds } = request;
    const key = keyOf(requestId, attempt);
    const entry = this.#journal.expected(this.#clock.nowMs(), seeds.length);
    const open = new Set(seeds.keys());
    const carried: Carried = {
      requestId,
      attempt,
      entry,
      isExpected: true,
      sinceMs: Number.NaN,
      numDenials: 0,
      onDelta,
      open,
    };
    this.#carried.set(key, carried);
    return {
      ...this.#handleOf(carried),
      arrived: () => {
        if (!carried.isExpected) return;
        carried.isExpected = false;
        carried.sinceMs = this.#clock.nowMs();
      },
      drop: () => {
        if (this.#carried.get(key) === carried) this.#forget(key, carried);
      },
    };
  }

  #handleOf(carried: Carried): SourceLeg {
    return {
      keep: () => this.#control(carried, ControlRequest_Action.KEEP),
      moveTo: (target) => this.#control(carried, ControlRequest_Action.MOVE, { target }),
      abort: (choice, keepTokens) => this.#control(carried, ControlRequest_Action.ABORT, { choice, keepTokens }),
      pause: () => this.#control(carried, ControlRequest_Action.PAUSE),
      resume: () => this.#control(carried, ControlRequest_Action.RESUME),
    };
  }

  status(deadlineMs = STATUS_DEADLINE_MS): Promise<StatusReply> {
    return this.#client.call('status', create(StatusRequestSchema), deadlineMs);
  }

  /**
   * Every request ends here and now as lost, and the engine is told to drop it: what it does once it wakes up again
   * concerns nobody.
   */
  giveUp(why: string): void {
    const given = [...this.#carried.values()];
    this.#failAll(why);
    for (const carried of given) this.#control(carried, ControlRequest_Action.ABORT);
  }

  /** The engine takes nothing new, and exits once nothing runs there. Rejects when it cannot be told. */
  async drain(): Promise<void> {
    const request = create(DrainRequestSchema, { leave: true, incarnation: this.#incarnation });
    await this.#client.call('drain', request, CALL_DEADLINE_MS);
  }

  close(): void {
    this.#closed = true;
    if (this.#kvRetry) clearTimeout(this.#kvRetry);
    for (const stream of [...this.#streams, this.#kvEvents]) stream?.cancel();
    this.#failAll('the engine stopped while the request ran');
    this.#client.close();
  }

  /** Fire and forget: when the engine is gone, so is what was to be controlled. */
  #control(
    { requestId, attempt }: Carried,
    action: ControlRequest_Action,
    more: {
      readonly choice?: number | undefined;
      readonly keepTokens?: number | undefined;
      readonly target?: HandOffAddress;
    } = {},
  ): void {
    const { choice, keepTokens, target } = more;
    const request = create(ControlRequestSchema, {
      requestId,
      attempt,
      replica: this.#replica,
      incarnation: this.#incarnation,
      action,
      choices: choice === undefined ? [] : [choice],
      ...(keepTokens === undefined ? {} : { keepTokens }),
      ...(target ? { target: targetOf(target) } : {}),
    });
    this.#client.call('control', request, CALL_DEADLINE_MS).catch(() => {
      // The step stream reports the loss.
    });
  }

  #deliver(batch: StepBatch): void {
    const nowMs = this.#clock.nowMs();
    for (const message of batch.deltas) {
      const key = keyOf(message.requestId, message.attempt);
      const carried = this.#carried.get(key);
      if (!carried?.open.has(message.choice)) continue;
      const delta = deltaOfMessage(message);
      carried.numDenials = 0;
      if (delta.tokenIds.length > 0 && Number.isNaN(carried.entry.firstMs)) carried.entry.firstMs = nowMs;
      if (delta.finish === null) {
        if (message.sequence > 0) this.#bySequence.set(message.sequence, { carried, choice: message.choice });
      } else {
        this.#bySequence.delete(message.sequence);
        carried.open.delete(message.choice);
        if (carried.open.size === 0) {
          carried.entry.endMs = nowMs;
          this.#carried.delete(key);
        }
      }
      carried.onDelta(delta);
    }
    forEachToken(batch, (sequence, numBefore, token) => {
      const named = this.#bySequence.get(sequence);
      if (!named?.carried.open.has(named.choice)) return;
      named.carried.numDenials = 0;
      named.carried.onDelta({ ...emptyDelta(named.choice), tokenIds: Int32Array.of(token), numBefore });
    });
  }

  #hear(beat: Heartbeat): void {
    this.#host.onHeartbeat(beat);
    const { status } = beat;
    if (status && status.numRunning + status.numWaiting === 0) this.#findOrphans(this.#clock.nowMs());
  }

  /** From the last event known, or from a snapshot. */
  #followKv(after = this.#host.kvNumber()): void {
    const stream = this.#client.stream(
      'kvEvents',
      create(KvEventsRequestSchema, { after: BigInt(after), incarnation: this.#incarnation }),
      (batch) => {
        if (this.#kvEvents !== stream || this.#host.onKvEvents(eventsOf(batch))) return;
        stream.cancel();
        this.#followKv(0);
      },
      () => {
        if (this.#kvEvents !== stream || this.#closed || !this.#model) return;
        this.#kvRetry = setTimeout(() => this.#followKv(), KV_RETRY_MS);
      },
    );
    this.#kvEvents = stream;
  }

  /** An engine that runs nothing, and says so twice, has no idea of what it was sent before: that will never end. */
  #findOrphans(nowMs: number): void {
    for (const [key, carried] of this.#carried) {
      const isYoung = carried.isExpected || carried.sinceMs > nowMs - ORPHAN_AGE_MS;
      if (isYoung || ++carried.numDenials < 2) continue;
      this.#carried.delete(key);
      this.#fail(carried, 'the engine does not know the request any more');
    }
  }

  #forget(key: string, carried: Carried): void {
    this.#journal.drop(carried.entry);
    this.#carried.delete(key);
    // Tokens on their way name the sequence alone.
    carried.open.clear();
  }

  /** Every open choice ends now: the engine is gone and will never end it. */
  #failAll(why: string): void {
    const lost = [...this.#carried.values()];
    this.#carried.clear();
    for (const carried of lost) this.#fail(carried, why);
  }

  #fail({ entry, onDelta, open }: Carried, why: string): void {
    entry.endMs = this.#clock.nowMs();
    const error: Refusal = { refused: 'engine_lost', message: `${why}; it is safe to retry`, retryAfterS: 1 };
    const ended = [...open];
    open.clear();
    for (const choice of ended) onDelta({ ...emptyDelta(choice), finish: 'error', error });
  }
}

function targetOf({ name, incarnation, address }: HandOffAddress): HandOffTarget {
  return create(HandOffTargetSchema, { instance: name, incarnation, address });
}

function keyOf(requestId: string, attempt: number): string {
  return `${requestId}#${attempt}`;
}

function modelOf(hello: HelloReply): EngineModel {
  return {
    model: hello.model,
    modelPath: hello.modelPath,
    vocabSize: hello.vocabSize,
    maxModelLen: hello.maxModelLen,
    stopTokenIds: [...int32OfBytes(hello.stopTokenIds)],
    numericsId: hello.numericsId,
    instance: hello.instance,
    summary: summaryOf(hello.summaryJson),
  };
}

function eventsOf({ after, number, snapshot, stored, evicted }: KvEventBatch): KvEvents {
  return {
    after: Number(after),
    number: Number(number),
    isSnapshot: snapshot,
    stored: digestsOfBytes(stored),
    evicted: digestsOfBytes(evicted),
  };
}

/** Only texts are taken over: what an engine says of itself is shown to people as it is. */
function summaryOf(json: string): Record<string, string> {
  const value: unknown = JSON.parse(json || '{}');
  if (typeof value !== 'object' || value === null) return {};
  return Object.fromEntries(
    Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}
