// Owns one request on its way through the cluster: tries, what came of each, and a stream without gap or repeat.
import { isRefusal, type Refusal } from '../../common/errors.ts';
import { formatTraceparent, type Span } from '../../common/trace.ts';
import type { EngineDelta, EngineHandle, EngineRequest } from '../engine-client.ts';
import type { RunningRequest } from '../routing/balance.ts';
import type { RoutingDecision } from '../routing/router.ts';
import { append, type ChoiceState, generatedOf, newChoice, newPromptLogprobs } from './choice-state.ts';
import { endRoute, explained } from './decision-notes.ts';
import { emptyDelta } from './delta-codec.ts';
import type { Attempt } from './engine-connection.ts';
import type { RequestEvent } from './request-log.ts';
import { deadlineRefusal, isPassing, maxLosses, noInstance, tookTwoDown } from './routing-refusals.ts';
import type { AttemptEvents, AttemptHandle } from './running-attempt.ts';

/** What a routed request needs of its surroundings. */
export interface RoutingHost {
  nowMs(): number;
  /** null: no instance could take it now. `only`: nobody else is wanted. */
  route(request: RoutedRequest, excluded: ReadonlySet<string>, only?: string): RoutingDecision | null;
  /** Who could go on with what `source` has, by its KV; null: nobody now. */
  follow(request: RoutedRequest, source: string, excluded: ReadonlySet<string>, only?: string): RoutingDecision | null;
  submit(decision: RoutingDecision, attempt: Attempt, events: AttemptEvents): Promise<AttemptHandle | Refusal>;
  /** Brings `redispatch` about, in the order of urgency. */
  recover(request: RoutedRequest): void;
  note(request: RoutedRequest, event: Omit<RequestEvent, 'atMs'>): void;
  /** A first token came `ttftMs` after it was sent to where `decision` said. */
  measured(decision: RoutingDecision, ttftMs: number): void;
  /** A decode instance has gone on after the prefill instance's last token. */
  handedOff(pauseMs: number): void;
  /** It has moved and goes on, `pauseMs` after its last token; null: it had none. */
  moved(request: RoutedRequest, pauseMs: number | null): void;
  ended(request: RoutedRequest): void;
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
  /** The one that is listened to. */
  #attempt = 0;
  /** Given out. */
  #numAttempts = 0;
  /** Instances that the present attempt has been sent to: what left one of them cannot come back. */
  #visited = new Set<string>();
  #numLosses = 0;
  #handle: AttemptHandle | null = null;
  #instance: string | null = null;
  /** Choices that the present attempt goes on with: its choice i is the request's choice `#attemptChoices[i]`. */
  #attemptChoices: readonly number[] = [];
  #numericsId: string | null = null;
  #isMoving = false;
  /** Ends the wait for an instance that prepares to take over; null: none does. */
  #cancelMove: (() => void) | null = null;
  /** A move that no token has followed yet; after a switch, when the last one before it came (NaN: there was none). */
  #move: { readonly from: string; readonly isSwitch: boolean; readonly lastTokenMs: number } | null = null;
  #lastTokenMs = Number.NaN;
  /** Since when it decodes where it is. */
  #settledMs = Number.NaN;
  /** The present attempt has been taken by an instance. */
  #isAdmitted = false;
  /** The present attempt has gone from a prefill to a decode instance. */
  #isHandedOff = false;
  /** The attempt that is being sent is over before it was answered. */
  #supersede: () => void = () => {};
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
    this.#choices = request.seeds.map(newChoice);
    // The engine ends it in time; this is for one that does not.
    this.#timer = setTimeout(
      () => this.fail(deadlineRefusal),
      Math.min(MAX_TIMER_MS, timeoutMs + DEADLINE_GRACE_MS),
    ).unref();
  }

  /** Kernels of the first try: others promise no identical text. null: there was none yet. */
  get numericsId(): string | null {
    return this.#numericsId;
  }

  /** Where it is; null: between instances. */
  get instance(): string | null {
    return this.#handle?.instance ?? this.#instance;
  }

  /** What decoding it costs where it is; null: it does not decode, or is about to be elsewhere. */
  get placement(): RunningRequest | null {
    const { instance } = this;
    if (!this.#handle || !instance || this.#isMoving || this.#isPaused || Number.isNaN(this.#settledMs)) return null;
    const { requestId: id, promptIds, maxTokens } = this.request;
    const numContextTokens = this.numContextTokens;
    return {
      id,
      instance,
      numSeqs: this.#open().length,
      numContextTokens,
      maxTokensLeft: maxTokens - (numContextTokens - promptIds.length),
      settledMs: this.#host.nowMs() - this.#settledMs,
    };
  }

  /** Tokens to have in the KV cache before the next one is sampled, of the longest choice. */
  get numContextTokens(): number {
    const longest = Math.max(0, ...this.#open().map((index) => this.#choices[index]?.numTokens ?? 0));
    return this.request.promptIds.length + longest;
  }

  /** Prompt and, of the longest choice, the tokens so far. */
  contextIds(): Int32Array {
    const longest = this.#open()
      .map((index) => generatedOf(this.#choices[index]))
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

  /**
   * Goes on at another instance: its KV travels there, or what is known so far is computed there, while the present one
   * goes on; then it switches. The refusal, where it may be tried again later; null: it has moved, or need not any more.
   */
  async move(reason: string, only?: string): Promise<Refusal | null> {
    const source = this.instance;
    if (!this.#handle || source === null || this.#isMoving) return null;
    this.#isMoving = true;
    try {
      if (await this.#moveWithKv(source, reason, only)) return null;
      return await this.#moveFrom(source, reason, only);
    } finally {
      this.#isMoving = false;
    }
  }

  /** false: it has to be moved without. */
  async #moveWithKv(source: string, reason: string, only: string | undefined): Promise<boolean> {
    const attempt = this.#attempt;
    const hasBegun = this.#open().every((index) => (this.#choices[index]?.numTokens ?? 0) > 0);
    const decision = hasBegun ? this.#host.follow(this, source, this.#visited, only) : null;
    if (!decision || !this.#handle) return false;
    this.#note('moving', { why: reason, to: decision.instance, withKv: true, ...explained(decision) });
    this.#visited.add(decision.instance);
    this.#move = { from: source, isSwitch: false, lastTokenMs: Number.NaN };
    const isGone = await this.#handle.moveTo(decision.chosen.instance);
    // Lost or ended meanwhile: others see to it.
    if (this.#attempt !== attempt || this.#isEnded || isGone) return true;
    this.#note('refused', { code: 'stays', message: `${decision.instance} has not taken all of it` });
    this.#move = null;
    return false;
  }

  async #moveFrom(source: string, reason: string, only: string | undefined): Promise<Refusal | null> {
    const attempt = this.#attempt;
    const isStill = () => this.#attempt === attempt && !this.#isEnded && this.#open().length > 0;
    const excluded = new Set([source]);
    let last: Refusal | null = null;
    while (isStill()) {
      const decision = this.#host.route(this, excluded, only);
      if (!decision) return last ?? noInstance;
      this.#note('moving', { why: reason, to: decision.instance, ...explained(decision) });
      const refusal = await this.#prepare(decision);
      if (!isStill()) return null;
      if (!refusal) {
        await this.#switch(decision, source);
        return null;
      }
      this.#note('refused', { code: refusal.refused, message: refusal.message });
      if (!isPassing(refusal)) return refusal;
      excluded.add(decision.instance);
      last = refusal;
    }
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
      if (this.#leftMs() <= 0) return deadlineRefusal;
      const span = this.#startRoute();
      const decision = this.#host.route(this, excluded);
      if (!decision) {
        span?.end({}, { error: 'no instance' });
        return last ?? noInstance;
      }
      const refusal = await this.#try(decision, span);
      if (!refusal) return null;
      if (refusal.refused === 'engine_lost' && ++this.#numLosses >= maxLosses) return tookTwoDown;
      if (!isPassing(refusal)) return refusal;
      this.#note('refused', { code: refusal.refused, message: refusal.message });
      excluded.add(decision.instance);
      last = refusal.refused === 'engine_lost' ? noInstance : refusal;
    }
    return null;
  }

  /** Tries one instance. null: it has taken it, or the try was superseded meanwhile. */
  async #try(decision: RoutingDecision, span: Span | undefined): Promise<Refusal | null> {
    const { instance, chosen } = decision;
    const attempt = ++this.#numAttempts;
    this.#attempt = attempt;
    this.#handle = null;
    this.#instance = instance;
    this.#isHandedOff = this.#isAdmitted = false;
    this.#visited = new Set([instance, ...(decision.decode ? [decision.decode.instance.name] : [])]);
    this.#note('routed', explained(decision));
    const sentMs = this.#host.nowMs();
    const open = this.#open();
    this.#attemptChoices = open;
    for (const choice of this.#choices) choice.numToSkip = choice.numPromptLogprobs;
    const message = this.#message(attempt, open, decision, span);
    const onDelta = (delta: EngineDelta) => this.#receive(attempt, delta, decision, sentMs);
    const onGoneOn = (pauseMs: number) => this.#attempt === attempt && this.#goneOn(pauseMs);
    const submitted = this.#host.submit(decision, message, { onDelta, onGoneOn });
    const { promise: superseded, resolve } = Promise.withResolvers<null>();
    this.#supersede = () => resolve(null);
    const result = await Promise.race([submitted, superseded]);
    endRoute(span, decision, result && isRefusal(result) ? result : null);
    if (!result || this.#attempt !== attempt || this.#isEnded) {
      // It was lost, or its client went, while it was being sent. An instance that stands still may answer much later.
      void submitted.then((late) => isRefusal(late) || late.abort());
      return null;
    }
    if (isRefusal(result)) return result;
    this.#handle = result;
    this.#numericsId ??= chosen.instance.numericsId;
    if (this.#isPaused) result.pause();
    this.#noteAdmitted();
    return null;
  }

  #startRoute(): Span | undefined {
    return this.request.span?.child('route', { 'xllm.attempt': this.#numAttempts + 1 });
  }

  #leftMs(): number {
    return this.deadlineMs - this.#host.nowMs();
  }

  /** What an engine is sent: the prompt, and what has come of the choices `open`. */
  #message(
    attempt: number,
    open: readonly number[],
    { chosen, decode }: RoutingDecision,
    span: Span | undefined,
  ): Attempt {
    const { request } = this;
    const generatedIds = open.map((index) => generatedOf(this.#choices[index]));
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
      deadlineMs: Math.min(MAX_UINT32, Math.ceil(Math.max(1, this.#leftMs()))),
      ...(span ? { traceparent: formatTraceparent(span.context) } : {}),
    };
  }

  /** Computes at another instance what is known so far; null: its prefix cache holds that now. */
  async #prepare(decision: RoutingDecision): Promise<Refusal | null> {
    const { promise: prepared, resolve } = Promise.withResolvers<Refusal | null>();
    const open = this.#open();
    const missing = new Set(open.keys());
    const plain = { ...this.request.sampling, numLogprobs: -1, numPromptLogprobs: -1 };
    const alone = { ...decision, decode: null };
    const message = { ...this.#message(++this.#numAttempts, open, alone, undefined), sampling: plain };
    const onDelta = ({ choice, tokenIds, finish, error }: EngineDelta) => {
      if (tokenIds.length > 0 || finish !== null) missing.delete(choice);
      if (error) resolve(error);
      if (missing.size === 0) resolve(null);
    };
    const result = await this.#host.submit(alone, message, { onDelta, onGoneOn: () => {} });
    if (isRefusal(result)) return result;
    this.#cancelMove = () => resolve(null);
    if (this.#isEnded) resolve(null);
    const outcome = await prepared;
    this.#cancelMove = null;
    result.abort();
    return outcome;
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
    this.#noteAdmitted();
    const promptLogprobs = newPromptLogprobs(choice, delta.promptLogprobs);
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
      if (this.#move?.isSwitch) this.#goneOn(this.#host.nowMs() - this.#move.lastTokenMs);
      this.#lastTokenMs = this.#host.nowMs();
      if (Number.isNaN(this.#settledMs)) this.#settledMs = this.#lastTokenMs;
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

  /** From one token to the next the request is another instance's. */
  async #switch(decision: RoutingDecision, source: string): Promise<void> {
    this.#handle?.abort();
    this.#settleClosed();
    this.#settledMs = Number.NaN;
    this.#move = { from: source, isSwitch: true, lastTokenMs: this.#lastTokenMs };
    this.request.span?.event('moved', { 'xllm.from': source, 'xllm.to': decision.instance });
    const refusal = await this.#try(decision, this.#startRoute());
    if (!refusal || this.#isEnded) return;
    // It had room a moment ago: then as after a loss, but nobody is to blame.
    this.#note('refused', { code: refusal.refused, message: refusal.message });
    this.#attempt = ++this.#numAttempts;
    this.#instance = null;
    this.#host.recover(this);
  }

  /** Choices whose end nobody will confirm any more. */
  #settleClosed(): void {
    for (const [index, choice] of this.#choices.entries()) {
      if (!choice.isClosed || choice.isFinished) continue;
      choice.isFinished = true;
      this.#onDelta({ ...emptyDelta(index), finish: 'abort' });
    }
  }

  #lost(why: string): void {
    const lostOn = this.instance;
    this.#note('lost', { why, numTokens: this.#choices.map(({ numTokens }) => numTokens) });
    this.request.span?.event('lost', { 'xllm.instance': lostOn ?? '', 'xllm.reason': why });
    this.#attempt = ++this.#numAttempts;
    this.#supersede();
    // The other instance of a pair may still have its part.
    this.#handle?.abort();
    this.#handle = null;
    this.#instance = null;
    this.#settleClosed();
    if (this.#isEnded) return;
    if (this.#open().length === 0) {
      this.#end();
      return;
    }
    if (++this.#numLosses >= maxLosses)
      this.fail({ ...tookTwoDown, message: `${tookTwoDown.message} (last: ${lostOn}, ${why})` });
    else this.#host.recover(this);
  }

  /** The first token of another instance, so long after the last one before it; NaN: there was none. */
  #goneOn(pauseMs: number): void {
    const move = this.#move;
    this.#move = null;
    this.#settledMs = this.#host.nowMs();
    if (!move) {
      // Once: choices go one by one.
      if (!this.#isHandedOff) this.#note('handed_off', { handOffMs: pauseMs });
      this.#isHandedOff = true;
      this.#host.handedOff(pauseMs);
      return;
    }
    this.#note('moved', { from: move.from, pauseMs: Number.isNaN(pauseMs) ? null : pauseMs });
    this.#host.moved(this, Number.isNaN(pauseMs) ? null : pauseMs);
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

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#supersede();
    clearTimeout(this.#timer);
    this.#cancelMove?.();
    this.#host.ended(this);
  }

  /** Once for each attempt: tokens may overtake the reply. */
  #noteAdmitted(): void {
    if (!this.#isAdmitted) this.#note('admitted', {});
    this.#isAdmitted = true;
  }

  #note(event: RequestEvent['event'], detail: RequestEvent['detail']): void {
    this.#host.note(this, { event, attempt: this.#attempt, instance: this.instance, detail });
  }
}

const DEADLINE_GRACE_MS = 5_000;
const MAX_UINT32 = 2 ** 32 - 1;
/** Longer timers fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;
