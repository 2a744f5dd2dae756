// Owns what is known about one request while it runs: times from arrival on one clock, counts, and its log line.
import type { Clock } from '../../../common/clock.ts';
import type { ErrorCode } from '../../../common/errors.ts';
import type { RequestId } from '../../../common/ids.ts';
import type { LogFields } from '../../../common/log.ts';
import { inSpan, type Span } from '../../../common/trace.ts';
import type { EngineDelta } from '../../engine-client.ts';
import type { RequestMetrics } from '../metrics/request-metrics.ts';
import type { Usage } from './events.ts';
import type { GenerationPlan } from './plan.ts';

/** Parts of a request's life that this process does itself. */
type Stage = 'tokenize' | 'route';

export class RequestRecord {
  readonly id: RequestId;
  readonly arrivalMs: number;
  readonly #clock: Clock;
  readonly #metrics: RequestMetrics;
  /** Set where the request failed, also after its headers had gone out as 200. */
  errorCode: ErrorCode | null = null;
  /** null: no traces. */
  span: Span | null = null;
  /** Settles when the route is done with the request. */
  work: Promise<unknown> = Promise.resolve();
  #model = '';
  #plan: GenerationPlan | null = null;
  #usage: Usage | null = null;
  #firstTokenMs: number | null = null;
  #lastTokenMs = 0;
  /** By choice. */
  readonly #lastTokensMs: (number | undefined)[] = [];
  readonly #finishes = new Set<string>();
  #maxGenerated = 0;
  #queueMs: number | null = null;
  #prefillMs: number | null = null;
  #firstDecodeMs: number | null = null;
  readonly #stageMs: Record<Stage, number | null> = { tokenize: null, route: null };
  #numPreemptions = 0;

  constructor(id: RequestId, clock: Clock, metrics: RequestMetrics) {
    this.id = id;
    this.arrivalMs = clock.nowMs();
    this.#clock = clock;
    this.#metrics = metrics;
  }

  /** Its name in replies; '': no engine has admitted the request. */
  get model(): string {
    return this.#model;
  }

  /** null: it has not come to its end in good order. */
  get usage(): Usage | null {
    return this.#usage;
  }

  /** The engine has admitted the request. `model`: its name in replies. */
  admitted(model: string, plan: GenerationPlan): void {
    this.#model = model;
    this.#plan = plan;
  }

  /** Makes prompt tokens: a stage, and a span of its own. */
  tokenize<T>(work: () => Promise<T>): Promise<T> {
    return this.#time('tokenize', () => inSpan(this.span, 'tokenize', work));
  }

  /** Finds who computes it: a stage whose tries are spans, made by who tries. */
  route<T>(work: () => Promise<T>): Promise<T> {
    return this.#time('route', work);
  }

  delta(choice: number, delta: EngineDelta): void {
    this.#queueMs ??= delta.queueMs;
    this.#prefillMs ??= delta.prefillMs;
    this.#numPreemptions = Math.max(this.#numPreemptions, delta.numPreemptions);
    if (delta.tokenIds.length === 0) return;
    const nowMs = this.#clock.nowMs();
    if (this.#firstTokenMs === null) {
      this.#firstTokenMs = nowMs;
      this.#metrics.firstToken(this.#model, (nowMs - this.arrivalMs) / 1000);
    }
    const lastMs = this.#lastTokensMs[choice];
    if (lastMs !== undefined) this.#firstDecodeMs ??= nowMs - lastMs;
    if (lastMs !== undefined) this.#metrics.interToken(this.#model, (nowMs - lastMs) / 1000);
    this.#lastTokensMs[choice] = nowMs;
    this.#lastTokenMs = nowMs;
    this.#metrics.generated(this.#model, delta.tokenIds.length);
  }

  choiceFinished(reason: 'stop' | 'length', numTokens: number): void {
    this.#finishes.add(reason);
    this.#maxGenerated = Math.max(this.#maxGenerated, numTokens);
    this.#metrics.choiceFinished(this.#model, reason, numTokens);
  }

  /** Call once, when the last byte is written or the client has gone. */
  finish(usage: Usage): void {
    const plan = this.#plan;
    if (!plan) return;
    this.#usage = usage;
    if (this.errorCode !== null) {
      const reason = this.errorCode === 'request_cancelled' ? 'abort' : 'error';
      this.#finishes.add(reason);
      this.#metrics.choiceFinished(this.#model, reason, null);
    }
    const seconds = (from: number, to: number) => (to - from) / 1000;
    const inSeconds = (ms: number | null) => (ms === null ? null : ms / 1000);
    const first = this.#firstTokenMs;
    const numPerChoice = usage.completionTokens / plan.seeds.length;
    const tpotMs = first === null || numPerChoice <= 1 ? null : (this.#lastTokenMs - first) / (numPerChoice - 1);
    this.#metrics.requestFinished(this.#model, {
      promptTokens: usage.promptTokens,
      maxGenerated: this.#maxGenerated,
      numPreemptions: this.#numPreemptions,
      e2eS: seconds(this.arrivalMs, this.#clock.nowMs()),
      queueS: inSeconds(this.#queueMs),
      prefillS: inSeconds(this.#prefillMs),
      decodeS: first === null ? null : seconds(first, this.#lastTokenMs),
      tokenizeS: inSeconds(this.#stageMs.tokenize),
      routeS: inSeconds(this.#stageMs.route),
      firstDecodeS: inSeconds(this.#firstDecodeMs),
    });
    if (plan.ttftSloMs > 0) {
      this.#metrics.objective(this.#model, 'ttft', first !== null && first - this.arrivalMs <= plan.ttftSloMs);
    }
    // A request of one token has no time per later token to miss (as vLLM's goodput counts it).
    if (plan.tpotSloMs > 0) {
      this.#metrics.objective(this.#model, 'tpot', first !== null && (tpotMs ?? 0) <= plan.tpotSloMs);
    }
  }

  async #time<T>(stage: Stage, work: () => Promise<T>): Promise<T> {
    const startMs = this.#clock.nowMs();
    try {
      return await work();
    } finally {
      this.#stageMs[stage] = this.#clock.nowMs() - startMs;
    }
  }

  /** What the request's log line says beside its id: never text, ids of tokens or keys. */
  logFields(): LogFields {
    const usage = this.#usage;
    const round = (ms: number) => Math.round(ms * 10) / 10;
    return {
      ...(usage === null
        ? {}
        : {
            model: this.#model,
            prompt: usage.promptTokens,
            generated: usage.completionTokens,
            cached: usage.cachedTokens,
            ttftMs: this.#firstTokenMs === null ? undefined : round(this.#firstTokenMs - this.arrivalMs),
            finish: [...this.#finishes].join('+') || undefined,
          }),
      e2eMs: round(this.#clock.nowMs() - this.arrivalMs),
      error: this.errorCode ?? undefined,
    };
  }
}
