// Owns the seam between a generation and the API that shows it.
import type { ChoiceEvent, Usage } from './events.ts';

export interface UsageBody {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** One API's way to show the event log. */
export interface ReplyView {
  /** One streamed event, or null where it has nothing to show. `usage`: null unless asked for in every event. */
  chunks(event: ChoiceEvent, usage: UsageBody | null): readonly object[];
  /** The event after the last choice has ended, where usage was asked for. */
  usageChunk(usage: UsageBody): object;
  /** The whole reply; one folded event per choice, in order. */
  body(choices: readonly ChoiceEvent[], usage: UsageBody): object;
}

export function usageBody({ promptTokens, completionTokens, cachedTokens }: Usage): UsageBody {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}
