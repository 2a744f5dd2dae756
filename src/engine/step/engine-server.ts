// Owns the engine's face on the contract: requests in, one message per step and replica out.
import { create } from '@bufbuild/protobuf';
import type { Clock } from '../../common/clock.ts';
import { invariant, isRefusal, type Refusal } from '../../common/errors.ts';
import { parseTraceparent, type Tracer } from '../../common/trace.ts';
import {
  type ControlRequest,
  ControlReplySchema,
  ControlRequest_Action,
  DrainReplySchema,
  Engine,
  type Heartbeat,
  type HelloReply,
  type HandOffTarget,
  type HelloRequest,
  type KvEventBatch,
  type StatusReply,
  SequenceDeltaSchema,
  type SourceMessage,
  type StepBatch,
  StepBatchSchema,
  type SubmitReply,
  SubmitReplySchema,
  type SubmitRequest,
  type TargetMessage,
} from '../../contract/generated/xllm_pb.js';
import type { ContractServer, ReplyStream } from '../../contract/grpc.ts';
import type { ImportedKv } from '../scheduler/sequence.ts';
import type { SequenceSpec, SequenceUpdate } from '../scheduler/spec.ts';
import type { Adopter } from '../transfer/incoming.ts';
import { StepMessage } from './delta-codec.ts';
import { Heartbeats } from './heartbeat.ts';
import { RecentKeys } from './recent-keys.ts';
import { SequenceTrace } from './sequence-trace.ts';
import { type SpecBody, type SubmitLimits, specsOfSubmit } from './submit-codec.ts';

/** What the server needs of the scheduler. */
export interface HostedScheduler {
  add(spec: SequenceSpec, nowMs: number): Refusal | null;
  /** Ends a sequence and returns its last update; of its generated tokens the first `keepTokens` count. */
  abort(id: number, keepTokens?: number): SequenceUpdate | null;
  /** Ends what is past its deadline. */
  expire(nowMs: number): readonly SequenceUpdate[];
  pause(id: number): void;
  resume(id: number): void;
  /** Takes a sequence over with its KV. */
  adopt(spec: SequenceSpec, imported: ImportedKv, nowMs: number): Refusal | null;
}

/** Where sequences leave to, and come from. */
export interface HostedTransfers {
  /** `isLive`: it goes on here while its KV travels. */
  begin(id: number, request: SubmitRequest, choice: number, target: HandOffTarget, isLive: boolean): void;
  keep(id: number): void;
  ended(id: number): void;
  accept(
    requests: { onMessage(listener: (message: SourceMessage) => void): void },
    stream: ReplyStream<TargetMessage>,
  ): void;
}

export interface EngineServerOptions {
  /** This life of the process: calls that mean another one change nothing. */
  readonly incarnation: string;
  readonly model: string;
  readonly scheduler: HostedScheduler;
  readonly transfers: HostedTransfers;
  readonly limits: SubmitLimits;
  readonly clock: Clock;
  /** null: no traces. */
  readonly tracer: Tracer | null;
  /** After anything that may give the scheduler work. */
  readonly wake: () => void;
  /** Called once nothing runs any more after a drain that asked for it. */
  readonly leave: () => void;
  readonly hello: (request: HelloRequest) => HelloReply;
  readonly status: () => StatusReply;
  /** Follows prefix-cache events; the returned function stops. */
  readonly kvEvents: (after: bigint, send: (batch: KvEventBatch) => void) => () => void;
}

interface HostedRequest {
  readonly replica: string;
  readonly requestId: string;
  readonly attempt: number;
  /** As it came: what it takes with it where it moves. */
  readonly submitted: SubmitRequest;
  /** Sequence id by choice. */
  readonly sequences: Map<number, number>;
  /** Its choices came one by one from another instance. */
  readonly isAdopted: boolean;
  numOpen: number;
}

interface HostedSequence {
  readonly request: HostedRequest;
  readonly choice: number;
  hasSentTokens: boolean;
  /** When its latest tokens were sent; NaN: none yet. */
  lastTokensMs: number;
  /** null: nobody traces it. */
  readonly trace: SequenceTrace | null;
}

/** A service replica that follows the steps of its requests. */
interface Replica {
  readonly steps: ReplyStream<StepBatch>;
  numSubmits: number;
}

/** Requests that have ended and are remembered: a call that arrives twice is not computed twice. */
const MAX_ENDED = 10_000;

export class EngineServer implements Adopter {
  readonly #options: EngineServerOptions;
  readonly #requests = new Map<string, HostedRequest>();
  readonly #sequences = new Map<number, HostedSequence>();
  readonly #replicas = new Map<string, Replica>();
  readonly #beats = new Set<Heartbeats>();
  readonly #ended = new RecentKeys(MAX_ENDED);
  #nextSequenceId = 1;
  #draining = false;
  readonly #drained: (() => void)[] = [];

  constructor(options: EngineServerOptions) {
    this.#options = options;
  }

  get numRequests(): number {
    return this.#requests.size;
  }

  get isDraining(): boolean {
    return this.#draining;
  }

  serve(server: ContractServer): void {
    const { hello, status, kvEvents, transfers } = this.#options;
    server.add(Engine, {
      hello,
      status: () => status(),
      submit: (request) => this.#submit(request),
      control: (request) => {
        this.#control(request);
        return create(ControlReplySchema);
      },
      steps: (request, stream) => {
        if (this.#isMeant(request)) this.#follow(request.replica, stream);
        else stream.end();
      },
      kvEvents: (request, stream) => {
        if (this.#isMeant(request)) stream.onClose(kvEvents(request.after, (batch) => stream.write(batch)));
        else stream.end();
      },
      heartbeats: (request, stream) => {
        if (this.#isMeant(request)) this.#beat(request.replica, stream);
        else stream.end();
      },
      handOff: (requests, stream) => transfers.accept(requests, stream),
      drain: async (request) => {
        // What ends a service must name it: bytes that happen to decode to this message name nobody.
        const isMeant = request.incarnation === this.#options.incarnation;
        if (isMeant && request.leave) void this.drain(Number.POSITIVE_INFINITY).then(this.#options.leave);
        else if (isMeant) await this.drain(request.deadlineMs);
        return create(DrainReplySchema, { numRemaining: this.#requests.size });
      },
    });
  }

  /** Admits nothing from now on; resolves when nothing runs any more or the deadline has passed. */
  async drain(deadlineMs: number): Promise<void> {
    this.#draining = true;
    for (const beats of this.#beats) beats.send();
    if (this.#requests.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#drained.push(resolve);
    const timer = Number.isFinite(deadlineMs) ? setTimeout(resolve, deadlineMs) : undefined;
    await promise;
    clearTimeout(timer);
  }

  /** To be called now and then: deadlines pass also while no step runs. */
  expire(): void {
    this.publish(0, this.#options.scheduler.expire(this.#options.clock.nowMs()));
  }

  /** Sends what a commit produced (step 0: what ended outside of one): one message per replica. */
  publish(stepId: number, updates: readonly SequenceUpdate[]): void {
    const messages = new Map<string, StepMessage>();
    for (const update of updates) {
      const hosted = this.#sequences.get(update.id);
      if (!hosted) continue;
      const { request, choice } = hosted;
      const isFirst = !hosted.hasSentTokens && update.tokenIds.length > 0;
      if (isFirst) hosted.hasSentTokens = true;
      if (update.tokenIds.length > 0) this.#observe(update, hosted, isFirst);
      hosted.trace?.update(update, isFirst, this.#options.clock.nowMs());
      let message = messages.get(request.replica);
      if (!message) {
        message = new StepMessage();
        messages.set(request.replica, message);
      }
      message.add(update, { requestId: request.requestId, attempt: request.attempt, choice }, isFirst);
      if (update.finish !== null) this.#forget(update.id, hosted);
    }
    for (const [replica, message] of messages) this.#replicas.get(replica)?.steps.write(message.encode(stepId));
  }

  /** A sequence that was to move goes on here. */
  stays(id: number): void {
    const hosted = this.#sequences.get(id);
    if (!hosted) return;
    const { replica, requestId, attempt } = hosted.request;
    const delta = create(SequenceDeltaSchema, { requestId, attempt, choice: hosted.choice, stays: true });
    this.#replicas.get(replica)?.steps.write(create(StepBatchSchema, { stepId: 0n, deltas: [delta] }));
  }

  #submit(request: SubmitRequest): SubmitReply {
    const { scheduler, transfers, limits, clock, wake } = this.#options;
    const key = keyOf(request);
    const replica = this.#replicas.get(request.replica);
    if (replica) replica.numSubmits++;
    if (!this.#isMeant(request))
      return refuse({ refused: 'engine_unavailable', message: 'the engine has been restarted', retryAfterS: 1 });
    if (request.model !== '' && request.model !== this.#options.model)
      return refuse({ refused: 'model_not_found', message: `the engine serves ${this.#options.model}` });
    if (this.#draining)
      return refuse({ refused: 'engine_unavailable', message: 'the engine is draining', retryAfterS: 1 });
    if (this.#requests.has(key))
      return refuse({ refused: 'invalid_request', message: `request ${request.requestId} is already running` });
    if (this.#ended.has(key))
      return refuse({ refused: 'invalid_request', message: `request ${request.requestId} has ended already` });
    if (!replica) {
      return refuse({ refused: 'engine_unavailable', message: 'the service replica follows no steps', retryAfterS: 1 });
    }
    const nowMs = clock.nowMs();
    const specs = specsOfSubmit(request, limits, nowMs);
    if (isRefusal(specs)) return refuse(specs);
    const firstId = this.#nextSequenceId;
    const sequences = specs.map((_, choice) => firstId + choice);
    for (const [choice, spec] of specs.entries()) {
      const refusal = scheduler.add({ ...spec, id: firstId + choice, group: specs.length > 1 ? firstId : -1 }, nowMs);
      if (!refusal) continue;
      for (const id of sequences.slice(0, choice)) scheduler.abort(id);
      wake();
      return refuse(refusal);
    }
    this.#nextSequenceId += specs.length;
    const hosted = this.#host(request, false);
    hosted.numOpen = sequences.length;
    for (const [choice, id] of sequences.entries()) {
      this.#enter(hosted, request, choice, id, nowMs);
      if (request.handOff) transfers.begin(id, request, choice, request.handOff, false);
    }
    wake();
    return create(SubmitReplySchema);
  }

  refusalOf(request: SubmitRequest, choice: number): Refusal | null {
    const key = keyOf(request);
    if (this.#draining) return { refused: 'engine_unavailable', message: 'the engine is draining', retryAfterS: 1 };
    if (!this.#replicas.has(request.replica))
      return { refused: 'engine_unavailable', message: 'the service replica follows no steps', retryAfterS: 1 };
    const isOver = this.#ended.has(key) || this.#ended.has(choiceKey(key, choice));
    if (isOver || this.#requests.get(key)?.sequences.has(choice))
      return { refused: 'invalid_request', message: `request ${request.requestId} is running or over already` };
    return null;
  }

  specOf(request: SubmitRequest): SpecBody | Refusal {
    const { limits, clock } = this.#options;
    const specs = specsOfSubmit(request, limits, clock.nowMs());
    if (isRefusal(specs)) return specs;
    const [spec, ...others] = specs;
    return spec && others.length === 0 ? spec : { refused: 'invalid_request', message: 'a record is of one sequence' };
  }

  adopt(request: SubmitRequest, choice: number, spec: SpecBody, imported: ImportedKv): number | Refusal {
    const refusal = this.refusalOf(request, choice);
    if (refusal) return refusal;
    const id = this.#nextSequenceId++;
    const nowMs = this.#options.clock.nowMs();
    const refused = this.#options.scheduler.adopt({ ...spec, id, group: -1 }, imported, nowMs);
    if (refused) return refused;
    const hosted = this.#requests.get(keyOf(request)) ?? this.#host(request, true);
    invariant(hosted.isAdopted, `request ${request.requestId} comes to where it runs`);
    hosted.numOpen++;
    this.#enter(hosted, request, choice, id, nowMs);
    return id;
  }

  #host(submitted: SubmitRequest, isAdopted: boolean): HostedRequest {
    const { replica, requestId, attempt } = submitted;
    const sequences = new Map<number, number>();
    const hosted = { replica, requestId, attempt, submitted, sequences, isAdopted, numOpen: 0 };
    this.#requests.set(keyOf(hosted), hosted);
    return hosted;
  }

  #enter(hosted: HostedRequest, { traceparent }: SubmitRequest, choice: number, id: number, nowMs: number): void {
    const { tracer } = this.#options;
    const parent = tracer && parseTraceparent(traceparent);
    const trace = tracer && parent && new SequenceTrace(tracer, parent, choice, nowMs, hosted.isAdopted);
    hosted.sequences.set(choice, id);
    this.#sequences.set(id, { request: hosted, choice, hasSentTokens: false, lastTokensMs: Number.NaN, trace });
  }

  #control(request: ControlRequest): void {
    const { scheduler, transfers, wake } = this.#options;
    if (!this.#isMeant(request)) return;
    const key = keyOf(request);
    const hosted = this.#requests.get(key);
    if (request.action === ControlRequest_Action.ABORT && (!hosted || hosted.isAdopted))
      this.#fence(key, request.choices);
    if (!hosted) return;
    const choices = request.choices.length > 0 ? request.choices : [...hosted.sequences.keys()];
    for (const choice of choices) {
      const id = hosted.sequences.get(choice);
      if (id === undefined || !this.#sequences.has(id)) continue;
      if (request.action === ControlRequest_Action.ABORT) this.#abort(id, request.keepTokens);
      else if (request.action === ControlRequest_Action.PAUSE) scheduler.pause(id);
      else if (request.action === ControlRequest_Action.RESUME) scheduler.resume(id);
      else if (request.action === ControlRequest_Action.KEEP) transfers.keep(id);
      else if (request.action === ControlRequest_Action.MOVE && request.target)
        transfers.begin(id, hosted.submitted, choice, request.target, true);
    }
    wake();
  }

  /** What has not come yet is not to come any more. */
  #fence(key: string, choices: readonly number[]): void {
    if (choices.length === 0) this.#ended.add(key);
    for (const choice of choices) this.#ended.add(choiceKey(key, choice));
  }

  /** A replica that stops listening has already failed its requests: computing on would serve nobody. */
  #follow(replica: string, stream: ReplyStream<StepBatch>): void {
    const before = this.#replicas.get(replica);
    const own = { steps: stream, numSubmits: 0 };
    this.#replicas.set(replica, own);
    before?.steps.end();
    stream.onClose(() => {
      if (this.#replicas.get(replica) !== own) return;
      this.#replicas.delete(replica);
      for (const [id, { request }] of this.#sequences) if (request.replica === replica) this.#abort(id);
      this.#options.wake();
    });
  }

  #beat(replica: string, stream: ReplyStream<Heartbeat>): void {
    const { incarnation, status } = this.#options;
    const numSubmits = () => this.#replicas.get(replica)?.numSubmits ?? 0;
    const beats = new Heartbeats({ incarnation, status, numSubmits }, stream);
    this.#beats.add(beats);
    stream.onClose(() => {
      beats.stop();
      this.#beats.delete(beats);
    });
  }

  #observe({ timing }: SequenceUpdate, hosted: HostedSequence, isFirst: boolean): void {
    const nowMs = this.#options.clock.nowMs();
    for (const beats of this.#beats) {
      if (isFirst) beats.firstToken(timing.queueMs + timing.prefillMs);
      else beats.tokenGap(nowMs - hosted.lastTokensMs);
    }
    hosted.lastTokensMs = nowMs;
  }

  /** Whoever names no life means this one. */
  #isMeant({ incarnation }: { readonly incarnation: string }): boolean {
    return incarnation === '' || incarnation === this.#options.incarnation;
  }

  #abort(id: number, keepTokens?: number): void {
    const update = this.#options.scheduler.abort(id, keepTokens);
    if (update) this.publish(0, [update]);
  }

  #forget(id: number, { request, choice }: HostedSequence): void {
    this.#sequences.delete(id);
    this.#options.transfers.ended(id);
    request.numOpen--;
    const key = keyOf(request);
    if (request.isAdopted) this.#ended.add(choiceKey(key, choice));
    if (request.numOpen > 0) return;
    this.#requests.delete(key);
    if (!request.isAdopted) this.#ended.add(key);
    if (this.#draining && this.#requests.size === 0) for (const resolve of this.#drained.splice(0)) resolve();
  }
}

interface RequestKey {
  readonly replica: string;
  readonly requestId: string;
  readonly attempt: number;
}

/** Replicas give ids out independently of each other. */
function keyOf({ replica, requestId, attempt }: RequestKey): string {
  return `${replica}/${requestId}#${attempt}`;
}

function choiceKey(key: string, choice: number): string {
  return `${key}/${choice}`;
}

function refuse({ refused, message, retryAfterS = 0 }: Refusal): SubmitReply {
  return create(SubmitReplySchema, { refused, message, retryAfterS });
}
