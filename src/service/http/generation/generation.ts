// Owns a running generation: submits its prompts, turns engine deltas into the event log, and ends exactly once.
import { isRefusal, type Refusal, XllmError } from '../../../common/errors.ts';
import type { EngineClient, EngineDelta, EngineHandle } from '../../engine-client.ts';
import type { TextService } from '../../text/text-service.ts';
import { Choice, echoEvent, numCodePoints } from './choice.ts';
import type { ChoiceEvent, Usage } from './events.ts';
import type { GenerationPlan, PromptPlan } from './plan.ts';
import type { RequestRecord } from './record.ts';

interface PromptState {
  readonly plan: PromptPlan;
  handle: EngineHandle | null;
  /** Least that any choice found cached: what was there before the request. */
  numCached: number | null;
}

interface QueuedDelta {
  readonly prompt: number;
  readonly delta: EngineDelta;
}

let serial = 0;

/** Unique in this process even where a client uses one id twice at a time, and still found by searching for the id. */
function engineRequestId(requestId: string): string {
  serial++;
  return `${requestId}.${serial.toString(36)}`;
}

export class Generation {
  readonly #plan: GenerationPlan;
  readonly #record: RequestRecord;
  readonly #prompts: readonly PromptState[];
  readonly #choices: readonly Choice[];
  /** By choice: log-probabilities of its prompt, collected until its first token; null once echoed. */
  readonly #echoes: (EngineDelta['promptLogprobs'][number][] | null)[];
  readonly #ended = Promise.withResolvers<void>();
  /** Deltas that came before `run`; null once it has been called. */
  #queued: QueuedDelta[] | null = [];
  #onEvent: (event: ChoiceEvent) => void = () => {};
  #numOpen: number;
  #isEnded = false;
  #timer: NodeJS.Timeout | null = null;

  private constructor(plan: GenerationPlan, text: TextService, record: RequestRecord) {
    this.#plan = plan;
    this.#record = record;
    this.#prompts = plan.prompts.map((prompt) => ({ plan: prompt, handle: null, numCached: null }));
    const stopTokenIds = new Set(plan.stopTokenIds);
    this.#choices = plan.seeds.map((_, index) => {
      const prompt = plan.prompts[Math.floor(index / plan.n)];
      return new Choice(index, {
        decoder: text.hasTokenizer ? text.createStreamDecoder({ skipSpecialTokens: plan.skipSpecialTokens }) : null,
        stops: plan.stops,
        stopTokenIds,
        includeStop: plan.includeStop,
        minTokens: plan.sampling.minTokens,
        wantsLogprobs: plan.wantsLogprobs,
        textOffset: prompt?.echo ? numCodePoints(prompt.echo.text) : 0,
      });
    });
    this.#echoes = this.#choices.map((_, index) => (plan.prompts[Math.floor(index / plan.n)]?.echo ? [] : null));
    this.#numOpen = this.#choices.length;
    // A failure before anyone waits in `run` is not unhandled: `run` hands it on.
    this.#ended.promise.catch(() => {});
  }

  /** Resolves once the engine has admitted every prompt. Throws XllmError with the engine's refusal. */
  static async start(
    plan: GenerationPlan,
    engine: EngineClient,
    text: TextService,
    record: RequestRecord,
  ): Promise<Generation> {
    const generation = new Generation(plan, text, record);
    await generation.#submitAll(engine);
    return generation;
  }

  /** Calls `onEvent` for every event, in order. Resolves when all choices have ended; rejects with XllmError. */
  run(onEvent: (event: ChoiceEvent) => void): Promise<void> {
    this.#onEvent = onEvent;
    const queued = this.#queued ?? [];
    this.#queued = null;
    this.#prompts.forEach(({ plan }, index) => {
      if (plan.maxTokens === 0 && !this.#needsEngine(plan)) this.#echoOnly(index);
    });
    for (const { prompt, delta } of queued) this.#receive(prompt, delta);
    return this.#ended.promise;
  }

  pause(): void {
    for (const { handle } of this.#prompts) handle?.pause();
  }

  resume(): void {
    for (const { handle } of this.#prompts) handle?.resume();
  }

  /** Ends the generation now: the engine is told, `run` rejects with `error`. */
  cancel(error: unknown): void {
    if (this.#isEnded) return;
    for (const { handle } of this.#prompts) handle?.abort();
    this.#end(error);
  }

  get usage(): Usage {
    return {
      promptTokens: this.#prompts.reduce((sum, { plan }) => sum + plan.ids.length, 0),
      completionTokens: this.#choices.reduce((sum, choice) => sum + choice.numTokens, 0),
      cachedTokens: this.#prompts.reduce((sum, { numCached }) => sum + (numCached ?? 0), 0),
    };
  }

  async #submitAll(engine: EngineClient): Promise<void> {
    const { n, seeds, model, sampling, priority, offline, cacheSalt, sessionKey, timeoutMs } = this.#plan;
    const { ttftSloMs, tpotSloMs } = this.#plan;
    const submitAll = () =>
      this.#prompts.map(async (state, index) => {
        if (!this.#needsEngine(state.plan)) return null;
        const result = await engine.submit(
          {
            requestId: engineRequestId(this.#record.id),
            model: model.model,
            promptIds: state.plan.ids,
            sampling,
            maxTokens: Math.max(1, state.plan.maxTokens),
            seeds: seeds.slice(index * n, (index + 1) * n),
            priority,
            offline,
            cacheSalt,
            deadlineMs: timeoutMs,
            sessionKey,
            ttftSloMs,
            tpotSloMs,
            ...(this.#record.span ? { span: this.#record.span } : {}),
          },
          (delta) => this.#receive(index, delta),
        );
        if (isRefusal(result)) throw errorOfRefusal(result);
        state.handle = result;
        return null;
      });
    const results = await this.#record.route(() => Promise.allSettled(submitAll()));
    const failure = results.find((result) => result.status === 'rejected');
    if (failure) {
      for (const { handle } of this.#prompts) handle?.abort();
      throw failure.reason;
    }
    if (timeoutMs > 0 && !this.#isEnded) {
      this.#timer = setTimeout(
        () => this.cancel(new XllmError('deadline_exceeded', `The request ran longer than ${timeoutMs / 1000} s.`)),
        timeoutMs,
      );
    }
  }

  /** An echo without log-probabilities and without new tokens is answered from the request alone. */
  #needsEngine(plan: PromptPlan): boolean {
    return plan.maxTokens > 0 || this.#plan.wantsLogprobs;
  }

  /** Called by the engine client, which must not see a fault of ours: one request fails, not all of them. */
  #receive(prompt: number, delta: EngineDelta): void {
    if (this.#queued) {
      this.#queued.push({ prompt, delta });
      return;
    }
    try {
      this.#accept(prompt, delta);
    } catch (error) {
      this.cancel(error);
    }
  }

  #accept(promptIndex: number, delta: EngineDelta): void {
    const state = this.#prompts[promptIndex];
    const choice = this.#choices[promptIndex * this.#plan.n + delta.choice];
    if (this.#isEnded || !state || !choice || choice.finish) return;
    if (delta.numCachedTokens !== null) {
      state.numCached = Math.min(state.numCached ?? delta.numCachedTokens, delta.numCachedTokens);
    }
    this.#record.delta(choice.index, delta);
    if (delta.finish === 'error' || delta.finish === 'abort') {
      this.cancel(errorOfEnd(delta));
      return;
    }
    this.#echoes[choice.index]?.push(...delta.promptLogprobs);
    if (delta.tokenIds.length === 0 && delta.finish === null) return;
    if (state.plan.maxTokens === 0) {
      this.#echoOnly(promptIndex, choice.index);
      return;
    }
    this.#echo(choice.index, state.plan);
    const event = choice.accept(delta);
    this.#onEvent(event);
    if (event.finish === null) return;
    this.#record.choiceFinished(event.finish.reason, choice.numTokens);
    if (delta.finish === null) state.handle?.abort(delta.choice, choice.numTokens);
    if (--this.#numOpen === 0) this.#end(null);
  }

  /** Ends choices of which only the prompt was wanted: all of a prompt, or one. */
  #echoOnly(promptIndex: number, only?: number): void {
    const { n } = this.#plan;
    const state = this.#prompts[promptIndex];
    for (let index = promptIndex * n; state && index < (promptIndex + 1) * n; index++) {
      if ((only !== undefined && only !== index) || this.#isEnded) continue;
      if (!this.#echo(index, state.plan, { reason: 'length', stopReason: null })) continue;
      this.#record.choiceFinished('length', 0);
      if (--this.#numOpen === 0) this.#end(null);
    }
  }

  /** Emits the prompt as the choice's first event, once. */
  #echo(index: number, { ids, echo }: PromptPlan, finish: ChoiceEvent['finish'] = null): boolean {
    const logprobs = this.#echoes[index];
    if (!logprobs || !echo) return false;
    this.#echoes[index] = null;
    this.#onEvent({ ...echoEvent(index, { ids, ...echo }, logprobs), finish });
    return true;
  }

  #end(error: unknown): void {
    this.#isEnded = true;
    if (this.#timer) clearTimeout(this.#timer);
    if (error === null) this.#ended.resolve();
    else this.#ended.reject(error);
  }
}

function errorOfRefusal({ refused, message, retryAfterS }: Refusal): XllmError {
  return new XllmError(refused, message, retryAfterS === undefined ? {} : { retryAfterS });
}

/** An end that the client did not ask for is never passed off as a finished answer. */
function errorOfEnd(delta: EngineDelta): XllmError {
  if (delta.error) return errorOfRefusal(delta.error);
  return delta.finish === 'abort'
    ? new XllmError('engine_unavailable', 'The engine gave the request up before it was done; retry.', {
        retryAfterS: 1,
      })
    : new XllmError('internal_error', 'The engine failed while the request ran.');
}
