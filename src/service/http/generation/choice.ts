// Owns one choice: tokens in, text out, with stop strings found before their text leaves.
import type { EngineDelta, TokenLogprob } from '../../engine-client.ts';
import { StopMatcher } from '../../text/stop-matcher.ts';
import type { StreamDecoder } from '../../text/text-service.ts';
import type { ChoiceEvent, ChoiceFinish } from './events.ts';

export interface ChoiceOptions {
  /** null: the model has no tokenizer; the text stays empty. */
  readonly decoder: StreamDecoder | null;
  readonly stops: readonly string[];
  readonly stopTokenIds: ReadonlySet<number>;
  readonly includeStop: boolean;
  readonly minTokens: number;
  readonly wantsLogprobs: boolean;
  /** Code points of the echoed prompt. */
  readonly textOffset: number;
}

export class Choice {
  readonly index: number;
  readonly #options: ChoiceOptions;
  readonly #matcher: StopMatcher | null;
  #numTokens = 0;
  #textOffset: number;
  #finish: ChoiceFinish | null = null;

  constructor(index: number, options: ChoiceOptions) {
    this.index = index;
    this.#options = options;
    this.#textOffset = options.textOffset;
    const { stops, includeStop, minTokens } = options;
    this.#matcher = stops.length === 0 ? null : new StopMatcher(stops, { includeStop, minTokens });
  }

  /** Generated tokens that count: none beyond the one that completed a stop string. */
  get numTokens(): number {
    return this.#numTokens;
  }

  get finish(): ChoiceFinish | null {
    return this.#finish;
  }

  /** `delta.finish` must be null, stop or length. After `finish` is set there is nothing more to accept. */
  accept(delta: EngineDelta): ChoiceEvent {
    const { decoder, includeStop, wantsLogprobs } = this.#options;
    const { tokenIds, stopTokenId } = delta;
    const textOffsets: number[] = [];
    let text = '';
    let numKept = 0;
    for (const id of tokenIds) {
      numKept++;
      this.#numTokens++;
      // A stop token counts and has a logprob, but its text is not the model's answer.
      const isDropped = stopTokenId !== null && numKept === tokenIds.length && !includeStop;
      const piece = isDropped || decoder === null ? '' : decoder.push(id);
      if (wantsLogprobs) {
        textOffsets.push(this.#textOffset);
        this.#textOffset += numCodePoints(piece);
      }
      text += this.#matcher ? this.#matcher.push(piece) : piece;
      if (this.#matcher?.match) break;
    }
    if (!this.#matcher?.match && delta.finish !== null) {
      const rest = decoder?.flush() ?? '';
      text += this.#matcher ? this.#matcher.push(rest, 0) + this.#matcher.flush() : rest;
    }
    this.#finish = this.#finishOf(delta);
    return {
      choice: this.index,
      text,
      tokenIds: numKept === tokenIds.length ? tokenIds : tokenIds.subarray(0, numKept),
      numEchoed: 0,
      logprobs: delta.logprobs.length > numKept ? delta.logprobs.slice(0, numKept) : delta.logprobs,
      textOffsets,
      finish: this.#finish,
    };
  }

  #finishOf(delta: EngineDelta): ChoiceFinish | null {
    const match = this.#matcher?.match;
    if (match) return { reason: 'stop', stopReason: match.stop };
    if (delta.finish === 'length') return { reason: 'length', stopReason: null };
    if (delta.finish !== 'stop') return null;
    const { stopTokenId } = delta;
    const wasRequested = stopTokenId !== null && this.#options.stopTokenIds.has(stopTokenId);
    return { reason: 'stop', stopReason: wasRequested ? stopTokenId : null };
  }
}

/** The prompt as the first event of a choice. `logprobs`: [T-1], of every prompt token but the first, or empty. */
export function echoEvent(
  choice: number,
  prompt: { readonly ids: Int32Array; readonly text: string; readonly textOffsets: readonly number[] },
  logprobs: readonly TokenLogprob[],
): ChoiceEvent {
  return {
    choice,
    text: prompt.text,
    tokenIds: prompt.ids,
    numEchoed: prompt.ids.length,
    logprobs: logprobs.length === 0 && prompt.textOffsets.length === 0 ? [] : [null, ...logprobs],
    textOffsets: prompt.textOffsets,
    finish: null,
  };
}

export function numCodePoints(text: string): number {
  let count = text.length;
  for (let i = 0; i + 1 < text.length; i++) {
    if ((text.charCodeAt(i) & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) count--;
  }
  return count;
}
