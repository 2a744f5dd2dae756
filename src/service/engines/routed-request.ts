// Owns one request on its way through the cluster: tries, what came of each, and a stream without gap or repeat.
import { isRefusal, type Refusal } from '../../common/errors.ts';
import type { EngineDelta, EngineHandle, EngineRequest, TokenLogprob } from '../engine-client.ts';
import type { RoutingDecision } from '../routing/router.ts';
import { emptyDelta } from './delta-codec.ts';
import type { Attempt } from './engine-connection.ts';
import type { RequestEvent } from './request-log.ts';

/** An instance that went down with the request twice is the request's fault more likely than not. */
const maxLosses = 2;

/** What becomes of an attempt. */
export interface AttemptListener {
  readonly onDelta: (delta: EngineDelta) => void;
  /** The decode instance has said its first token, so long after the prefill instance said its own. */
  readonly onHandOff: (ms: number) => void;
}

/** What a routed request needs of its surroundings. */
export interface RoutingHost {
  nowMs(): number;
  /** null: no instance could take it now. */
  route(request: RoutedRequest, excluded: ReadonlySet<string>): RoutingDecision | null;
  submit(decision: RoutingDecision, attempt: Attempt, listener: AttemptListener): Promise<EngineHandle | Refusal>;
  /** Brings `redispatch` about, in the order of urgency. */
  recover(request: RoutedRequest): void;
  note(request: RoutedRequest, event: Omit<RequestEvent, 'atMs'>): void;
  /** A first token came `ttftMs` after it was sent to where `decision` said. */
  measured(decision: RoutingDecision, ttftMs: number): void;
  ended(request: RoutedRequest): void;
}

/** What came of one choice so far. */
interface ChoiceState {
  /** Generated tokens, over all attempts. */
  tokens: Int32Array;
  numTokens: number;
  /** Log-probabilities of prompt positions that the client has. */
  numPromptLogprobs: number;
  /** Of those, how many the present attempt will deliver once more. */
  numToSkip: number;
  /** Facts that are told once. */
  hasBegun: boolean;
  /** The client wants no more of it (a stop string). */
  isClosed: boolean;
  isFinished: boolean;
}

export class RoutedRequest {
  readonly request: EngineRequest;
  readonly arrivalMs: number;
  readonly ordinal: number;
  /** Milliseconds of the host's clock; there always is one. */
  readonly deadlineMs: number;
  readonly #host: RoutingHost;
  readonly #onDelta: (delta: EngineDelta) => void;
  readonly #choices: readonly ChoiceState[];
  #attempt = 0;
  #numLosses = 0;
  #handle: EngineHandle | null = null;
  #instance: string | null = null;
  /** Choices that the present attempt goes on with: its choice i is the request's choice `#attemptChoices[i]`. */
  #attemptChoices: readonly number[] = [];
  #numericsId: string | null = null;
  #isPaused = false;
  #isEnded = false;
  readonly #timer: NodeJS.Timeout;

  constructor(
    host: RoutingHost,
    request: EngineRequest,
    onDelta: (delta: EngineDelta) => void,
    { ordinal, timeoutMs }: { readonly ordinal: number; readonly timeoutMs: number },
  ) {
    this.#host = host;
    this.request = request;
    this.#onDelta = onDelta;
    this.ordinal = ordinal;
    this.arrivalMs = host.nowMs();
    this.deadlineMs = this.arrivalMs + timeoutMs;
    this.#choices = request.seeds.map(() => ({
      tokens: new Int32Array(64),
      numTokens: 0,
      numPromptLogprobs: 0,
      numToSkip: 0,
      hasBegun: false,
      isClosed: false,
      isFinished: false,
    }));
    // The engine ends it in time; this is for one that does not.
    this.#timer = setTimeout(() => this.#pastDeadline(), Math.min(MAX_TIMER_MS, timeoutMs + DEADLINE_GRACE_MS)).unref();
  }

  /** Kernels of the first try: others promise no identical text. null: there was none yet. */
  get numericsId(): string | null {
    return this.#numericsId;
  }

  get instance(): string | null {
    return this.#instance;
  }

  /** Tokens to have in the KV cache before the next one is sampled, of the longest choice. */
  get numContextTokens(): number {
    const longest = Math.max(0, ...this.#open().map((index) => this.#choices[index]?.numTokens ?? 0));
    return this.request.promptIds.length + longest;
  }

  /** Prompt and, of the longest choice, the tokens so far. */
  contextIds(): Int32Array {
    const longest = this.#open()
      .map((index) => this.#generated(index))
      .reduce((best, ids) => (ids.length > best.length ? ids : best), new Int32Array(0));
    if (longest.length === 0) return this.request.promptIds;
    const ids = new Int32Array(this.request.promptIds.length + longest.length);
    ids.set(this.request.promptIds);
    ids.set(longest, this.request.promptIds.length);
    return ids;
  }

  async start(): Promise<EngineHandle | Refusal> {
    const refusal = await this.#dispatch();
    if (refusal) {
      this.#note('refused', { code: refusal.refused, message: refusal.message });
      this.#end();
      return refusal;
    }
    return {
      abort: (choice, keepTokens) => this.#abort(choice, keepTokens),
      pause: () => this.#setPaused(true),
      resume: () => this.#setPaused(false),
    };
  }

  /** Another try after a loss. The refusal, where it may be tried again later; null: it is settled. */
  async redispatch(): Promise<Refusal | null> {
    if (this.#isEnded) return null;
    const refusal = await this.#dispatch();
    if (!refusal || this.#isEnded) return null;
    if (isPassing(refusal)) return refusal;
    this.fail(refusal);
    return null;
  }

  /** Every open choice ends with this error. */
  fail(error: Refusal): void {
    if (this.#isEnded) return;
    this.#note('failed', { code: error.refused, message: error.message });
    this.#handle?.abort();
    const open = this.#open();
    this.#end();
    for (const choice of open) this.#onDelta({ ...emptyDelta(choice), finish: 'error', error });
  }

  /** Tries instance after instance until one takes it. */
  async #dispatch(): Promise<Refusal | null> {
    const excluded = new Set<string>();
    let last: Refusal | null = null;
    while (!this.#isEnded) {
      const leftMs = this.deadlineMs - this.#host.nowMs();
      if (leftMs <= 0) return deadlineRefusal;
      const decision = this.#host.route(this, excluded);
      if (!decision) return last ?? noInstance;
      const { instance } = decision;
      const attempt = ++this.#attempt;
      this.#handle = null;
      this.#instance = instance;
      this.#note('routed', explained(decision));
      const sentMs = this.#host.nowMs();
      const message = this.#begin(attempt, leftMs, decision);
      const result = await this.#host.submit(decision, message, {
        onDelta: (delta) => this.#receive(attempt, delta, decision, sentMs),
        onHandOff: (handOffMs) => {
          if (this.#attempt !== attempt || this.#isEnded) return;
          this.#instance = decision.decode?.instance.name ?? instance;
          this.#note('handed_off', { handOffMs });
        },
      });
      if (this.#attempt !== attempt || this.#isEnded) {
        // It was lost, or its client went, while it was being sent.
        if (!isRefusal(result)) result.abort();
        return null;
      }
      if (!isRefusal(result)) {
        this.#handle = result;
        this.#numericsId ??= decision.chosen.instance.numericsId;
        if (this.#isPaused) result.pause();
        this.#note('admitted', {});
        return null;
      }
      if (result.refused === 'engine_lost' && ++this.#numLosses >= maxLosses) return tookTwoDown;
      if (!isPassing(result)) return result;
      this.#note('refused', { code: result.refused, message: result.message });
      excluded.add(instance);
      last = result.refused === 'engine_lost' ? noInstance : result;
    }
    return null;
  }

  #begin(attempt: number, leftMs: number, { chosen, decode }: RoutingDecision): Attempt {
    const { request } = this;
    const open = this.#open();
    this.#attemptChoices = open;
    for (const choice of this.#choices) choice.numToSkip = choice.numPromptLogprobs;
    const generatedIds = open.map((index) => this.#generated(index));
    // Once tokens have come, all there is to say of the prompt has been said.
    const isPromptTold = generatedIds.every((ids) => ids.length > 0);
    return {
      ...request,
      attempt,
      generatedIds,
      cachedTokens: chosen.cachedTokens,
      handOff: decode?.instance ?? null,
      seeds: open.map((index) => request.seeds[index] ?? 0n),
      sampling: isPromptTold ? { ...request.sampling, numPromptLogprobs: -1 } : request.sampling,
      deadlineMs: Math.min(MAX_UINT32, Math.ceil(leftMs)),
    };
  }

  #receive(attempt: number, delta: EngineDelta, decision: RoutingDecision, sentMs: number): void {
    // A superseded attempt has nothing to say any more.
    if (this.#attempt !== attempt || this.#isEnded) return;
    const index = this.#attemptChoices[delta.choice] ?? -1;
    const choice = this.#choices[index];
    if (!choice || choice.isFinished) return;
    const isGivenUp = delta.finish === 'abort' && !choice.isClosed;
    if (isGivenUp || delta.error?.refused === 'engine_lost') {
      this.#lost(delta.error?.message ?? 'the engine gave it up');
      return;
    }
    const promptLogprobs = this.#newPromptLogprobs(choice, delta.promptLogprobs);
    append(choice, delta.tokenIds);
    const isFirst = !choice.hasBegun;
    if (delta.tokenIds.length > 0) {
      if (isFirst && this.#choices.every(({ hasBegun }) => !hasBegun)) {
        const ttftMs = this.#host.nowMs() - sentMs;
        this.#note('first_token', {
          ttftMs,
          queueMs: delta.queueMs,
          prefillMs: delta.prefillMs,
          cachedTokens: delta.numCachedTokens,
        });
        if (this.#attempt === 1) this.#host.measured(decision, ttftMs);
      }
      choice.hasBegun = true;
    }
    if (delta.finish !== null) choice.isFinished = true;
    const isLast = this.#choices.every(({ isFinished }) => isFinished);
    if (isLast) {
      this.#note('finished', { finish: delta.finish, numTokens: this.#choices.map(({ numTokens }) => numTokens) });
      this.#end();
    }
    const told = isFirst ? {} : { numCachedTokens: null, queueMs: null, prefillMs: null };
    this.#onDelta({ ...delta, ...told, promptLogprobs, choice: index });
  }

  /** Those that an earlier attempt has delivered are left out. */
  #newPromptLogprobs(choice: ChoiceState, logprobs: readonly TokenLogprob[]): readonly TokenLogprob[] {
    const numSkipped = Math.min(choice.numToSkip, logprobs.length);
    choice.numToSkip -= numSkipped;
    choice.numPromptLogprobs += logprobs.length - numSkipped;
    return numSkipped === 0 ? logprobs : logprobs.slice(numSkipped);
  }

  #lost(why: string): void {
    const lostOn = this.#instance;
    this.#note('lost', { why, numTokens: this.#choices.map(({ numTokens }) => numTokens) });
    this.#attempt++;
    // The other instance of a pair may still have its part.
    this.#handle?.abort();
    this.#handle = null;
    this.#instance = null;
    for (const [index, choice] of this.#choices.entries()) {
      if (!choice.isClosed || choice.isFinished) continue;
      choice.isFinished = true;
      this.#onDelta({ ...emptyDelta(index), finish: 'abort' });
    }
    if (this.#isEnded) return;
    if (this.#open().length === 0) {
      this.#end();
      return;
    }
    if (++this.#numLosses >= maxLosses)
      this.fail({ ...tookTwoDown, message: `${tookTwoDown.message} (last: ${lostOn}, ${why})` });
    else this.#host.recover(this);
  }

  #abort(choice: number | undefined, keepTokens: number | undefined): void {
    if (this.#isEnded) return;
    if (choice === undefined) {
      this.#note('cancelled', {});
      this.#handle?.abort();
      this.#end();
      return;
    }
    const state = this.#choices[choice];
    if (!state || state.isFinished) return;
    state.isClosed = true;
    // The attempt counts its own choices: those that were open when it began.
    this.#handle?.abort(this.#attemptChoices.indexOf(choice), keepTokens);
  }

  #setPaused(isPaused: boolean): void {
    this.#isPaused = isPaused;
    if (isPaused) this.#handle?.pause();
    else this.#handle?.resume();
  }

  /** Choices that an attempt has to go on with. */
  #open(): number[] {
    return [...this.#choices.keys()].filter((index) => {
      const choice = this.#choices[index];
      return choice !== undefined && !choice.isFinished && !choice.isClosed;
    });
  }

  #generated(index: number): Int32Array {
    const choice = this.#choices[index];
    return choice ? choice.tokens.slice(0, choice.numTokens) : new Int32Array(0);
  }

  #pastDeadline(): void {
    this.fail(deadlineRefusal);
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    clearTimeout(this.#timer);
    this.#host.ended(this);
  }

  #note(event: RequestEvent['event'], detail: RequestEvent['detail']): void {
    this.#host.note(this, { event, attempt: this.#attempt, instance: this.#instance, detail });
  }
}

const DEADLINE_GRACE_MS = 5_000;
const MAX_UINT32 = 2 ** 32 - 1;
/** Longer timers fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

const noInstance: Refusal = {
  refused: 'engine_unavailable',
  message: 'no engine can take the request: all are starting, restarting or out of reach; retry',
  retryAfterS: 1,
};
const tookTwoDown: Refusal = {
  refused: 'engine_lost',
  message: `${maxLosses} engines stopped while the request ran; it is not tried again`,
};
const deadlineRefusal: Refusal = {
  refused: 'deadline_exceeded',
  message: 'the deadline passed; allow more time or ask for fewer tokens',
};

/** Another instance, or the same later, may take it. */
function isPassing({ refused }: Refusal): boolean {
  return refused === 'overloaded' || refused === 'engine_unavailable' || refused === 'engine_lost';
}

function append(choice: ChoiceState, tokenIds: Int32Array): void {
  const numTokens = choice.numTokens + tokenIds.length;
  if (numTokens > choice.tokens.length) {
    const grown = new Int32Array(2 * numTokens);
    grown.set(choice.tokens);
    choice.tokens = grown;
  }
  choice.tokens.set(tokenIds, choice.numTokens);
  choice.numTokens = numTokens;
}

function explained({ policy, reason, candidates, decode }: RoutingDecision): RequestEvent['detail'] {
  const round = (ms: number) => Math.round(ms * 10) / 10;
  return {
    policy,
    reason,
    ...(decode ? { handOffTo: decode.instance.name } : {}),
    candidates: candidates.map(({ instance, cachedTokens, ttftMs, stepMs, hasMemory }) => ({
      instance: instance.name,
      cachedTokens,
      predictedTtftMs: round(ttftMs),
      predictedStepMs: round(stepMs),
      hasMemory,
      numRunning: instance.load.numRunning,
      numWaiting: instance.load.numWaiting + instance.unreported.numRequests,
    })),
  };
}
