// Owns an engine for tests: the next token is a hash of the prefix (and of the seed, unless greedy), so that equal
// requests give equal answers and unequal ones almost never do. It can delay, refuse, pause and die.
import { create } from '@bufbuild/protobuf';
import type { Refusal } from '../../src/common/errors.ts';
import { emptyDelta } from '../../src/service/engines/delta-codec.ts';
import { int32OfBytes } from '../../src/contract/codec.ts';
import { type StatusReply, StatusReplySchema } from '../../src/contract/generated/xllm_pb.js';
import type {
  EngineClient,
  EngineDelta,
  EngineHandle,
  EngineModel,
  EngineRequest,
  InstanceStatus,
  TokenLogprob,
} from '../../src/service/engine-client.ts';
import type { ClusterView } from '../../src/service/registry/cluster-view.ts';
import { FAKE_VOCAB_SIZE, fakeTokens } from './fake-text.ts';

export interface FakeEngineOptions {
  /** 0: as fast as the event loop allows. */
  readonly stepMs?: number;
  readonly tokensPerStep?: number;
  readonly maxModelLen?: number;
  readonly modelName?: string;
  /** A refusal instead of admission. */
  readonly refuse?: (request: EngineRequest) => Refusal | null;
  /** Tokens to answer with, instead of hashed ones; after the last one comes the end token. */
  readonly script?: (request: EngineRequest) => readonly number[] | null;
}

interface Running {
  readonly request: EngineRequest;
  readonly onDelta: (delta: EngineDelta) => void;
  readonly choices: Map<number, { hash: number; numTokens: number }>;
  isPaused: boolean;
}

export class FakeEngine implements EngineClient {
  readonly #options: Required<Omit<FakeEngineOptions, 'refuse' | 'script'>> & FakeEngineOptions;
  readonly #running = new Map<string, Running>();
  readonly #seenPrompts = new Set<string>();
  #timer: NodeJS.Timeout | NodeJS.Immediate | null = null;
  #model: EngineModel | null;
  #numSteps = 0;
  /** Whether status calls are left without an answer. */
  isHung = false;
  stalledMs = 0;
  /** Everything that was submitted and admitted. */
  readonly requests: EngineRequest[] = [];
  readonly aborts: { readonly requestId: string; readonly choice?: number; readonly keepTokens?: number }[] = [];
  numPauses = 0;
  numResumes = 0;

  constructor(options: FakeEngineOptions = {}) {
    this.#options = { stepMs: 0, tokensPerStep: 1, maxModelLen: 2048, modelName: 'fake-model', ...options };
    this.#model = this.#newModel();
  }

  get models(): readonly EngineModel[] {
    return this.#model ? [this.#model] : [];
  }

  view(): ClusterView {
    return { nowMs: 0, instances: [], prefixBlocks: () => 0 };
  }

  get numRunning(): number {
    return this.#running.size;
  }

  async submit(request: EngineRequest, onDelta: (delta: EngineDelta) => void): Promise<EngineHandle | Refusal> {
    if (!this.#model) return { refused: 'engine_unavailable', message: 'no engine', retryAfterS: 1 };
    const refusal = this.#options.refuse?.(request);
    if (refusal) return refusal;
    if (this.#running.has(request.requestId)) return { refused: 'invalid_request', message: 'duplicate id' };
    this.requests.push(request);
    const hash = hashOf(request.promptIds);
    const choices = new Map(
      request.seeds.map((seed, index) => {
        const isGreedy = request.sampling.temperature === 0;
        return [index, { hash: isGreedy ? hash : mix(hash, Number(seed & 0xffffffffn)), numTokens: 0 }];
      }),
    );
    this.#running.set(request.requestId, { request, onDelta, choices, isPaused: false });
    this.#schedule();
    return this.#handle(request.requestId);
  }

  async status(): Promise<StatusReply | null> {
    if (this.isHung) return new Promise(() => {});
    if (!this.#model) return null;
    return create(StatusReplySchema, {
      steps: BigInt(this.#numSteps),
      numRunning: this.#running.size,
      stalledMs: this.stalledMs,
      numKvBlocks: 100,
      numKvBlocksUsed: this.#running.size,
      prefixCacheQueries: 10n,
      prefixCacheHits: 4n,
      graphModeSteps: { partial: BigInt(this.#numSteps), eager: 0n },
      pageStates: { free: 90n, mapped: 10n },
      eventLoopCpuUs: BigInt(this.#numSteps * 100),
    });
  }

  async statuses(): Promise<readonly InstanceStatus[]> {
    return this.#model ? [{ instance: 'engine-0', model: this.#model.model, status: await this.status() }] : [];
  }

  /** Ends as a process does that was killed: every choice fails, nothing is admitted until `restart`. */
  die(): void {
    const lost = [...this.#running.values()];
    this.#running.clear();
    this.#model = null;
    for (const { choices, onDelta } of lost) {
      for (const choice of choices.keys()) {
        onDelta({
          ...emptyDelta(choice),
          finish: 'error',
          error: { refused: 'engine_lost', message: 'the engine died' },
        });
      }
    }
  }

  restart(): void {
    this.#numSteps = 0;
    this.#model = this.#newModel();
  }

  /** Drops what it recorded and cached of past requests. */
  forget(): void {
    this.requests.length = 0;
    this.aborts.length = 0;
    this.#seenPrompts.clear();
  }

  close(): void {
    this.#running.clear();
  }

  #newModel(): EngineModel {
    return {
      model: this.#options.modelName,
      modelPath: 'nowhere',
      vocabSize: FAKE_VOCAB_SIZE,
      maxModelLen: this.#options.maxModelLen,
      stopTokenIds: [fakeTokens.eos, fakeTokens.turnEnd],
      numericsId: 'fake-numerics',
      instance: 'fake-0',
      summary: {},
    };
  }

  #handle(requestId: string): EngineHandle {
    return {
      abort: (choice, keepTokens) => {
        this.aborts.push({
          requestId,
          ...(choice === undefined ? {} : { choice }),
          ...(keepTokens === undefined ? {} : { keepTokens }),
        });
        const running = this.#running.get(requestId);
        if (!running) return;
        for (const index of choice === undefined ? [...running.choices.keys()] : [choice]) {
          if (!running.choices.delete(index)) continue;
          queueMicrotask(() => running.onDelta({ ...emptyDelta(index), finish: 'abort' }));
        }
        if (running.choices.size === 0) this.#running.delete(requestId);
      },
      pause: () => {
        this.numPauses++;
        const running = this.#running.get(requestId);
        if (running) running.isPaused = true;
      },
      resume: () => {
        this.numResumes++;
        const running = this.#running.get(requestId);
        if (running) running.isPaused = false;
        this.#schedule();
      },
    };
  }

  #schedule(): void {
    if (this.#timer || ![...this.#running.values()].some(({ isPaused }) => !isPaused)) return;
    const step = () => {
      this.#timer = null;
      this.#step();
      this.#schedule();
    };
    this.#timer = this.#options.stepMs > 0 ? setTimeout(step, this.#options.stepMs) : setImmediate(step);
  }

  #step(): void {
    this.#numSteps++;
    for (const [requestId, running] of this.#running) {
      if (running.isPaused) continue;
      for (const choice of running.choices.keys()) {
        const delta = this.#advance(running, choice);
        if (delta.finish !== null) running.choices.delete(choice);
        if (running.choices.size === 0) this.#running.delete(requestId);
        running.onDelta(delta);
      }
    }
  }

  #advance(running: Running, choice: number): EngineDelta {
    const { request } = running;
    const state = running.choices.get(choice) ?? { hash: 0, numTokens: 0 };
    const { sampling, maxTokens, promptIds } = request;
    const script = this.#options.script?.(request) ?? null;
    const stops = new Set(int32OfBytes(sampling.stopTokenIds));
    const isFirst = state.numTokens === 0;
    const tokenIds: number[] = [];
    const logprobs: TokenLogprob[] = [];
    let finish: EngineDelta['finish'] = null;
    let stopTokenId: number | null = null;
    while (finish === null && tokenIds.length < this.#options.tokensPerStep) {
      const mayEnd = !sampling.ignoreEos && state.numTokens >= sampling.minTokens;
      const id = script ? (script[state.numTokens] ?? fakeTokens.eos) : nextToken(state.hash, mayEnd);
      state.hash = mix(state.hash, id);
      state.numTokens++;
      tokenIds.push(id);
      if (sampling.numLogprobs >= 0) logprobs.push(logprobOf(id, sampling.numLogprobs));
      if ((id === fakeTokens.eos && mayEnd) || (stops.has(id) && state.numTokens > sampling.minTokens)) {
        finish = 'stop';
        stopTokenId = id;
      } else if (state.numTokens >= maxTokens) finish = 'length';
    }
    const wantsPrompt = isFirst && sampling.numPromptLogprobs >= 0;
    return {
      ...emptyDelta(choice),
      tokenIds: Int32Array.from(tokenIds),
      logprobs,
      promptLogprobs: wantsPrompt ? [...promptIds].slice(1).map((id) => logprobOf(id, sampling.numPromptLogprobs)) : [],
      finish,
      stopTokenId,
      ...(isFirst ? { numCachedTokens: this.#cached(request), queueMs: 1, prefillMs: 2 } : {}),
    };
  }

  /** A prompt seen before counts as cached but for its last token. */
  #cached({ promptIds, cacheSalt }: EngineRequest): number {
    const key = `${cacheSalt}|${promptIds.join(',')}`;
    const numCached = this.#seenPrompts.has(key) ? promptIds.length - 1 : 0;
    this.#seenPrompts.add(key);
    return numCached;
  }
}

function logprobOf(tokenId: number, numTop: number): TokenLogprob {
  const topIds = Int32Array.from({ length: numTop }, (_, i) => (i === 0 ? tokenId : (tokenId + i) % 256));
  return {
    tokenId,
    logprob: -0.5,
    rank: 1,
    topIds,
    topLogprobs: Float32Array.from(topIds, (_, i) => -0.5 - i),
  };
}

/** Letters and spaces, and an end about every 40 tokens. Scripts give anything else. */
function nextToken(hash: number, mayEnd: boolean): number {
  const draw = mix(hash, 0x51ed);
  if (mayEnd && draw % 40 === 0) return fakeTokens.eos;
  if (draw % 5 === 0) return 0x20;
  return 0x61 + (draw % 26);
}

function mix(hash: number, value: number): number {
  let h = Math.imul(hash ^ value, 0x9e3779b1);
  h ^= h >>> 15;
  h = Math.imul(h, 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}

function hashOf(ids: Int32Array): number {
  let hash = 0x811c9dc5;
  for (const id of ids) hash = mix(hash, id);
  return hash;
}
