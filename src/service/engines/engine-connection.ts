// Owns one connection to one life of an engine: hello, the step stream, status polls, and the requests it carries.
import { create } from '@bufbuild/protobuf';
import type { Refusal } from '../../common/errors.ts';
import { bytesOfInt32, int32OfBytes } from '../../contract/codec.ts';
import {
  ControlRequest_Action,
  ControlRequestSchema,
  DrainRequestSchema,
  Engine,
  HelloRequestSchema,
  type StatusReply,
  StatusRequestSchema,
  type StepBatch,
  StepsRequestSchema,
  SubmitRequestSchema,
} from '../../contract/generated/xllm_pb.js';
import { type ClientOf, ContractClient, type StreamHandle } from '../../contract/grpc.ts';
import { type Address, BUILD, PROTOCOL_VERSION } from '../../contract/protocol.ts';
import type { EngineDelta, EngineHandle, EngineModel, EngineRequest } from '../engine-client.ts';
import { deltaOfMessage } from './delta-codec.ts';

const CALL_DEADLINE_MS = 10_000;
const STATUS_DEADLINE_MS = 5_000;

/** A request the engine has admitted and not finished. */
interface Carried {
  readonly onDelta: (delta: EngineDelta) => void;
  /** Choices that have not finished yet. */
  readonly open: Set<number>;
}

export class EngineConnection {
  readonly #client: ClientOf<typeof Engine>;
  readonly #replica: string;
  readonly #carried = new Map<string, Carried>();
  #steps: StreamHandle | null = null;
  #model: EngineModel | null = null;
  #closed = false;

  constructor(address: Address, replica: string) {
    this.#client = new ContractClient(Engine, address);
    this.#replica = replica;
  }

  get model(): EngineModel | null {
    return this.#model;
  }

  get numRequests(): number {
    return this.#carried.size;
  }

  /**
   * Says hello and opens the step stream. `onLost` is called once when the stream breaks.
   * Rejects when the engine cannot be reached or speaks another protocol.
   */
  async open(onLost: () => void): Promise<EngineModel> {
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
    this.#steps = this.#client.stream(
      'steps',
      create(StepsRequestSchema, { replica: this.#replica }),
      (batch) => this.#deliver(batch),
      () => {
        this.#model = null;
        this.#failAll();
        if (!this.#closed) onLost();
      },
    );
    this.#model = {
      model: hello.model,
      modelPath: hello.modelPath,
      vocabSize: hello.vocabSize,
      maxModelLen: hello.maxModelLen,
      stopTokenIds: [...int32OfBytes(hello.stopTokenIds)],
      numericsId: hello.numericsId,
      instance: hello.instance,
      summary: summaryOf(hello.summaryJson),
    };
    return this.#model;
  }

  async submit(request: EngineRequest, onDelta: (delta: EngineDelta) => void): Promise<EngineHandle | Refusal> {
    const { requestId } = request;
    if (this.#carried.has(requestId))
      return { refused: 'invalid_request', message: `request id ${requestId} is already running` };
    // Registered before the call: the first tokens may overtake the reply.
    this.#carried.set(requestId, { onDelta, open: new Set(request.seeds.keys()) });
    const message = create(SubmitRequestSchema, {
      requestId,
      attempt: 1,
      replica: this.#replica,
      model: request.model,
      promptIds: bytesOfInt32(request.promptIds),
      sampling: request.sampling,
      maxTokens: request.maxTokens,
      seeds: [...request.seeds],
      priority: request.priority,
      offline: request.offline,
      cacheSalt: request.cacheSalt,
      deadlineMs: request.deadlineMs,
    });
    try {
      const reply = await this.#client.call('submit', message, CALL_DEADLINE_MS);
      if (reply.refused !== '') {
        this.#carried.delete(requestId);
        const wait = reply.retryAfterS > 0 ? { retryAfterS: reply.retryAfterS } : {};
        return { refused: reply.refused as Refusal['refused'], message: reply.message, ...wait };
      }
    } catch (error) {
      this.#carried.delete(requestId);
      this.#control(requestId, ControlRequest_Action.ABORT);
      const detail = error instanceof Error ? error.message : String(error);
      return {
        refused: 'engine_unavailable',
        message: `the engine did not take the request (${detail}); retry`,
        retryAfterS: 1,
      };
    }
    return {
      abort: (choice, keepTokens) => this.#control(requestId, ControlRequest_Action.ABORT, choice, keepTokens),
      pause: () => this.#control(requestId, ControlRequest_Action.PAUSE),
      resume: () => this.#control(requestId, ControlRequest_Action.RESUME),
    };
  }

  status(): Promise<StatusReply> {
    return this.#client.call('status', create(StatusRequestSchema), STATUS_DEADLINE_MS);
  }

  /** Resolves with the number of requests still running when the engine replied. */
  async drain(deadlineMs: number): Promise<number> {
    const reply = await this.#client.call(
      'drain',
      create(DrainRequestSchema, { deadlineMs }),
      deadlineMs + CALL_DEADLINE_MS,
    );
    return reply.numRemaining;
  }

  close(): void {
    this.#closed = true;
    this.#steps?.cancel();
    this.#failAll();
    this.#client.close();
  }

  /** Fire and forget: when the engine is gone, so is what was to be controlled. */
  #control(requestId: string, action: ControlRequest_Action, choice?: number, keepTokens?: number): void {
    const request = create(ControlRequestSchema, {
      requestId,
      attempt: 1,
      action,
      choices: choice === undefined ? [] : [choice],
      ...(keepTokens === undefined ? {} : { keepTokens }),
    });
    this.#client.call('control', request, CALL_DEADLINE_MS).catch(() => {
      // The step stream reports the loss.
    });
  }

  #deliver(batch: StepBatch): void {
    for (const message of batch.deltas) {
      const carried = this.#carried.get(message.requestId);
      if (!carried?.open.has(message.choice)) continue;
      const delta = deltaOfMessage(message);
      if (delta.finish !== null) {
        carried.open.delete(message.choice);
        if (carried.open.size === 0) this.#carried.delete(message.requestId);
      }
      carried.onDelta(delta);
    }
  }

  /** Every open choice ends now: the engine is gone and will never end it. */
  #failAll(): void {
    const lost = [...this.#carried.values()];
    this.#carried.clear();
    const error: Refusal = {
      refused: 'engine_lost',
      message: 'the engine stopped while the request ran; it is safe to retry',
      retryAfterS: 1,
    };
    for (const { onDelta, open } of lost) {
      for (const choice of open) {
        onDelta({
          choice,
          tokenIds: new Int32Array(0),
          logprobs: [],
          promptLogprobs: [],
          finish: 'error',
          stopTokenId: null,
          numCachedTokens: null,
          queueMs: null,
          prefillMs: null,
          numPreemptions: 0,
          error,
        });
      }
    }
  }
}

/** Only texts are taken over: what an engine says of itself is shown to people as it is. */
function summaryOf(json: string): Record<string, string> {
  const value: unknown = JSON.parse(json || '{}');
  if (typeof value !== 'object' || value === null) return {};
  return Object.fromEntries(
    Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}
