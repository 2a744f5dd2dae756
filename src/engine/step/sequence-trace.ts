// Owns the spans of one sequence on an engine: queue, prefill, hand-off, decode, each told once it has ended.
import type { TraceContext, Tracer } from '../../common/trace.ts';
import type { SequenceUpdate } from '../scheduler/spec.ts';

export class SequenceTrace {
  readonly #tracer: Tracer;
  readonly #parent: TraceContext;
  readonly #choice: number;
  readonly #arrivalMs: number;
  readonly #isAdopted: boolean;
  #firstTokenMs = Number.NaN;
  #numTokens = 0;

  /** `isAdopted`: another instance has computed the prompt, and told of it. */
  constructor(tracer: Tracer, parent: TraceContext, choice: number, arrivalMs: number, isAdopted: boolean) {
    this.#tracer = tracer;
    this.#parent = parent;
    this.#choice = choice;
    this.#arrivalMs = arrivalMs;
    this.#isAdopted = isAdopted;
    if (isAdopted) this.#firstTokenMs = arrivalMs;
  }

  /** `isFirst`: it brings the first tokens. */
  update({ tokenIds, finish, error, timing }: SequenceUpdate, isFirst: boolean, nowMs: number): void {
    this.#numTokens += tokenIds.length;
    if (isFirst && !this.#isAdopted) {
      const admittedMs = this.#arrivalMs + timing.queueMs;
      this.#firstTokenMs = nowMs;
      this.#tell('queue', this.#arrivalMs, admittedMs, {});
      this.#tell('prefill', admittedMs, nowMs, { 'xllm.cached_tokens': timing.numCachedTokens });
    }
    if (finish === null) return;
    const attributes = {
      'xllm.finish': finish,
      'xllm.num_tokens': this.#numTokens,
      'xllm.num_preemptions': timing.numPreemptions,
    };
    // One that ends before its first token ends in the stage that it had come to.
    const [stage, startMs] = !Number.isNaN(this.#firstTokenMs)
      ? ([finish === 'handed-off' && this.#numTokens <= 1 ? 'hand-off' : 'decode', this.#firstTokenMs] as const)
      : timing.numCachedTokens < 0
        ? (['queue', this.#arrivalMs] as const)
        : (['prefill', this.#arrivalMs + timing.queueMs] as const);
    this.#tell(stage, startMs, nowMs, attributes, error ? `${error.refused}: ${error.message}` : undefined);
  }

  #tell(
    stage: 'queue' | 'prefill' | 'hand-off' | 'decode',
    startMs: number,
    endMs: number,
    attributes: Readonly<Record<string, string | number>>,
    error?: string,
  ): void {
    const span = this.#tracer.start(stage, this.#parent, { 'xllm.choice': this.#choice, ...attributes }, startMs);
    span.end({}, { endMs, ...(error === undefined ? {} : { error }) });
  }
}
