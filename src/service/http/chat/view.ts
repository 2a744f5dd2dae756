// Owns how the event log looks as chat completions.
import type { ChoiceEvent } from '../generation/events.ts';
import { chatLogprobs, type TokenNamer } from '../generation/logprobs.ts';
import type { ReplyView, UsageBody } from '../generation/view.ts';

export interface ChatViewOptions {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly fingerprint: string;
  /** null: none asked for. */
  readonly numTopLogprobs: number | null;
  readonly returnTokenIds: boolean;
  readonly promptIds: Int32Array;
  readonly nameOf: TokenNamer;
  /** Whether `usage: null` belongs into the events before the last. */
  readonly includeUsage: boolean;
}

export class ChatView implements ReplyView {
  readonly #options: ChatViewOptions;
  /** Choices whose first event was shown. */
  readonly #begun = new Set<number>();

  constructor(options: ChatViewOptions) {
    this.#options = options;
  }

  /** The end comes as an event of its own: clients drop text that arrives with a finish_reason. */
  chunks(event: ChoiceEvent, usage: UsageBody | null): readonly object[] {
    const { numTopLogprobs, returnTokenIds, promptIds, includeUsage } = this.#options;
    const hasTokens = event.tokenIds.length > 0 && (numTopLogprobs !== null || returnTokenIds);
    const chunks: object[] = [];
    const push = (delta: object, finish: ChoiceEvent['finish'], tokens: ChoiceEvent | null) => {
      const isFirstOfAll = this.#begun.size === 0;
      const role = this.#begun.has(event.choice) ? {} : { role: 'assistant' };
      this.#begun.add(event.choice);
      chunks.push({
        ...this.#head('chat.completion.chunk'),
        ...(isFirstOfAll && returnTokenIds ? { prompt_token_ids: [...promptIds] } : {}),
        choices: [
          {
            index: event.choice,
            delta: { ...role, ...delta },
            logprobs: tokens && this.#logprobs(tokens),
            finish_reason: finish?.reason ?? null,
            stop_reason: finish?.stopReason ?? null,
            ...(returnTokenIds && tokens ? { token_ids: [...tokens.tokenIds] } : {}),
          },
        ],
        ...(usage ? { usage } : includeUsage ? { usage: null } : {}),
      });
    };
    if (event.text !== '' || hasTokens) push({ content: event.text }, null, event);
    if (event.finish !== null) push({}, event.finish, null);
    return chunks;
  }

  usageChunk(usage: UsageBody): object {
    return { ...this.#head('chat.completion.chunk'), choices: [], usage };
  }

  body(choices: readonly ChoiceEvent[], usage: UsageBody): object {
    const { returnTokenIds, promptIds } = this.#options;
    return {
      ...this.#head('chat.completion'),
      choices: choices.map((event) => ({
        index: event.choice,
        message: { role: 'assistant', content: event.text, refusal: null },
        logprobs: this.#logprobs(event),
        finish_reason: event.finish?.reason ?? null,
        stop_reason: event.finish?.stopReason ?? null,
        ...(returnTokenIds ? { token_ids: [...event.tokenIds] } : {}),
      })),
      usage,
      ...(returnTokenIds ? { prompt_token_ids: [...promptIds] } : {}),
    };
  }

  #head(object: string) {
    const { id, created, model, fingerprint } = this.#options;
    return { id, object, created, model, system_fingerprint: fingerprint };
  }

  #logprobs(event: ChoiceEvent) {
    const { numTopLogprobs, nameOf } = this.#options;
    return numTopLogprobs === null ? null : chatLogprobs(event, numTopLogprobs, nameOf);
  }
}
