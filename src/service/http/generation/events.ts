// Owns the event log of a generation: what happened to which choice, from which streamed and whole replies both derive.
import type { TokenLogprob } from '../../engine-client.ts';

export interface ChoiceFinish {
  readonly reason: 'stop' | 'length';
  /** The stop string or requested stop token that ended it; null for the model's own end token and for length. */
  readonly stopReason: string | number | null;
}

/** New text and tokens of one choice. Several events folded into one have the same form. */
export interface ChoiceEvent {
  /** prompt * n + choice of that prompt. */
  readonly choice: number;
  readonly text: string;
  /** T tokens; text may lag behind them while it could begin a stop string or is half a character. */
  readonly tokenIds: Int32Array;
  /** How many of the tokens, from the front, are the echoed prompt. */
  readonly numEchoed: number;
  /** [T] where asked for, else empty; null for the first prompt token, which nothing predicts. */
  readonly logprobs: readonly (TokenLogprob | null)[];
  /** [T] where logprobs are asked for: code points of text decoded before the token. */
  readonly textOffsets: readonly number[];
  readonly finish: ChoiceFinish | null;
}

export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Prompt tokens whose KV was found in the prefix cache. */
  readonly cachedTokens: number;
}

/** One event that says what all of them said, in order. `events` are of one choice; at least one. */
export function foldEvents(events: readonly ChoiceEvent[]): ChoiceEvent {
  const numTokens = events.reduce((sum, event) => sum + event.tokenIds.length, 0);
  const tokenIds = new Int32Array(numTokens);
  let start = 0;
  for (const event of events) {
    tokenIds.set(event.tokenIds, start);
    start += event.tokenIds.length;
  }
  return {
    choice: events[0]?.choice ?? 0,
    text: events.map((event) => event.text).join(''),
    tokenIds,
    numEchoed: events.reduce((sum, event) => sum + event.numEchoed, 0),
    logprobs: events.flatMap((event) => event.logprobs),
    textOffsets: events.flatMap((event) => event.textOffsets),
    finish: events.at(-1)?.finish ?? null,
  };
}
