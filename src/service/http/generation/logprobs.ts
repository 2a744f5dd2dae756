// Owns how log-probabilities look in replies: OpenAI's two forms, for chat and for text completions.
import type { TokenLogprob } from '../../engine-client.ts';
import type { TextService } from '../../text/text-service.ts';
import type { ChoiceEvent } from './events.ts';

interface TokenName {
  readonly text: string;
  readonly bytes: readonly number[] | null;
}

/** How tokens are spelled in replies. */
export type TokenNamer = (id: number) => TokenName;

/** `asIds`: as "token_id:N", for tokens that are no text of their own; so too where there is no tokenizer. */
export function tokenNamer(text: TextService, asIds: boolean): TokenNamer {
  if (!text.hasTokenizer) return (id) => ({ text: `token_id:${id}`, bytes: null });
  return (id) => {
    const token = text.tokenText(id);
    return { text: asIds ? `token_id:${id}` : token.text, bytes: [...token.bytes] };
  };
}

export interface ChatLogprob extends TokenLogprobName {
  readonly top_logprobs: readonly TokenLogprobName[];
}
interface TokenLogprobName {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[] | null;
}

/** JSON has no infinity; OpenAI writes this for it. */
const LEAST_LOGPROB = -9999;

export function chatLogprobs(
  event: ChoiceEvent,
  numTop: number,
  nameOf: TokenNamer,
): { readonly content: readonly ChatLogprob[]; readonly refusal: null } {
  const named = (id: number, logprob: number): TokenLogprobName => {
    const { text, bytes } = nameOf(id);
    return { token: text, logprob: Math.max(logprob, LEAST_LOGPROB), bytes };
  };
  const content = event.logprobs
    .filter((entry) => entry !== null)
    .map((entry) => ({ ...named(entry.tokenId, entry.logprob), top_logprobs: topOf(entry, numTop, named) }));
  return { content, refusal: null };
}

export interface CompletionLogprobs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly (number | null)[];
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
  readonly text_offset: readonly number[];
}

/** The chosen token is always among `top_logprobs`, so that there may be one more than asked for. */
export function completionLogprobs(event: ChoiceEvent, numTop: number, nameOf: TokenNamer): CompletionLogprobs {
  return {
    tokens: Array.from(event.tokenIds, (id) => nameOf(id).text),
    token_logprobs: event.logprobs.map((entry) => (entry === null ? null : Math.max(entry.logprob, LEAST_LOGPROB))),
    top_logprobs: event.logprobs.map((entry) => {
      if (entry === null) return null;
      const top = topOf(entry, numTop, (id, logprob) => [nameOf(id).text, Math.max(logprob, LEAST_LOGPROB)] as const);
      const chosen = [nameOf(entry.tokenId).text, Math.max(entry.logprob, LEAST_LOGPROB)] as const;
      // Of tokens that are spelled alike the likeliest keeps the name: entries are written worst first.
      return Object.fromEntries([chosen, ...top.toReversed()].filter(([, logprob]) => !Number.isNaN(logprob)));
    }),
    text_offset: event.textOffsets,
  };
}

function topOf<T>(entry: TokenLogprob, numTop: number, of: (id: number, logprob: number) => T): T[] {
  const numEntries = Math.min(numTop, entry.topIds.length, entry.topLogprobs.length);
  return Array.from({ length: numEntries }, (_, i) => of(entry.topIds[i]!, entry.topLogprobs[i]!));
}
