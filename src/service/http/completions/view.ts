// Owns how the event log looks as text completions.
import type { ChoiceEvent } from '../generation/events.ts';
import { completionLogprobs, type TokenNamer } from '../generation/logprobs.ts';
import type { ReplyView, UsageBody } from '../generation/view.ts';

export interface CompletionViewOptions {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly fingerprint: string;
  /** null: none asked for. */
  readonly numTopLogprobs: number | null;
  readonly returnTokenIds: boolean;
  readonly prompts: readonly Int32Array[];
  readonly n: number;
  readonly nameOf: TokenNamer;
  /** Whether `usage: null` belongs into the events before the last. */
  readonly includeUsage: boolean;
}

export class CompletionView implements ReplyView {
  readonly #options: CompletionViewOptions;
  /** Choices whose first event was shown. */
  readonly #begun = new Set<number>();

  constructor(options: CompletionViewOptions) {
    this.#options = options;
  }

  /** The end comes as an event of its own: clients drop text that arrives with a finish_reason. */
  chunks(event: ChoiceEvent, usage: UsageBody | null): readonly object[] {
    const { numTopLogprobs, returnTokenIds, includeUsage } = this.#options;
    const hasTokens = event.tokenIds.length > 0 && (numTopLogprobs !== null || returnTokenIds);
    const choices: object[] = [];
    if (event.text !== '' || hasTokens) {
      choices.push(this.#choice({ ...event, finish: null }, !this.#begun.has(event.choice)));
      this.#begun.add(event.choice);
    }
    if (event.finish !== null) choices.push({ ...this.#end(event), text: '', logprobs: null });
    const usageNow = usage ? { usage } : includeUsage ? { usage: null } : {};
    return choices.map((choice) => ({ ...this.#head(), choices: [choice], ...usageNow }));
  }

  usageChunk(usage: UsageBody): object {
    return { ...this.#head(), choices: [], usage };
  }

  body(choices: readonly ChoiceEvent[], usage: UsageBody): object {
    return { ...this.#head(), choices: choices.map((choice) => this.#choice(choice, true)), usage };
  }

  #head() {
    const { id, created, model, fingerprint } = this.#options;
    return { id, object: 'text_completion', created, model, system_fingerprint: fingerprint };
  }

  #end({ choice, finish }: ChoiceEvent) {
    return { index: choice, finish_reason: finish?.reason ?? null, stop_reason: finish?.stopReason ?? null };
  }

  #choice(event: ChoiceEvent, withPrompt: boolean) {
    const { numTopLogprobs, returnTokenIds, prompts, n, nameOf } = this.#options;
    const promptIds = prompts[Math.floor(event.choice / n)] ?? [];
    return {
      ...this.#end(event),
      text: event.text,
      logprobs: numTopLogprobs === null ? null : completionLogprobs(event, numTopLogprobs, nameOf),
      ...(returnTokenIds
        ? {
            ...(withPrompt ? { prompt_token_ids: [...promptIds] } : {}),
            token_ids: [...event.tokenIds.subarray(event.numEchoed)],
          }
        : {}),
    };
  }
}
