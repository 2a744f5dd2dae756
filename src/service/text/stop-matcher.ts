// Owns stop strings: finds them across token borders and holds back text that may be the start of one.
import { invariant } from '../../common/errors.ts';

export interface StopMatch {
  readonly stop: string;
  /** Where the stop string starts in the whole text, in UTF-16 units. */
  readonly index: number;
  /** Tokens consumed, up to and including the one that completed the stop string. */
  readonly numTokens: number;
}

export interface StopMatcherOptions {
  /** Whether the stop string itself belongs to the text (vLLM's `include_stop_str_in_output`). */
  readonly includeStop?: boolean;
  /** The text of the first so many tokens is not searched (`min_tokens`). */
  readonly minTokens?: number;
}

/** One pattern with the state of a Knuth-Morris-Pratt search. */
interface Pattern {
  readonly text: string;
  /** failure[n]: the length of the longest proper border of the first n units. */
  readonly failure: Int32Array;
  /** How many units of the pattern the text so far ends with. */
  matched: number;
}

/**
 * The stop string that ends first wins; of those that end together, the longest. So the result does not depend on how
 * the text is cut into tokens.
 */
export class StopMatcher {
  readonly #patterns: readonly Pattern[];
  readonly #includeStop: boolean;
  readonly #minTokens: number;
  /** The held text is the start of a stop string: these many units of it. */
  #heldOf = '';
  #numHeld = 0;
  #numTokens = 0;
  /** Units of text seen, held ones included. */
  #length = 0;
  #match: StopMatch | null = null;

  constructor(stops: readonly string[], { includeStop = false, minTokens = 0 }: StopMatcherOptions = {}) {
    invariant(!stops.includes(''), 'a stop string is never empty');
    this.#patterns = stops.map((stop) => {
      const text = stop.toWellFormed();
      return { text, failure: failureOf(text), matched: 0 };
    });
    this.#includeStop = includeStop;
    this.#minTokens = minTokens;
  }

  /** Set once a stop string was met; later text is dropped. */
  get match(): StopMatch | null {
    return this.#match;
  }

  /**
   * Takes the text that `numTokens` more tokens gave (may be ''), returns the text that is safe to send.
   * Linear in the text times the number of stop strings.
   */
  push(text: string, numTokens = 1): string {
    if (this.#match !== null) return '';
    this.#numTokens += numTokens;
    const start = this.#length;
    this.#length += text.length;
    if (this.#numTokens <= this.#minTokens) return text;
    for (let i = 0; i < text.length; i++) {
      const stop = this.#advance(text.charCodeAt(i));
      if (stop === null) continue;
      const index = start + i + 1 - stop.length;
      this.#match = { stop, index, numTokens: this.#numTokens };
      const sentBefore = start - this.#numHeld;
      return this.#release(text, (this.#includeStop ? index + stop.length : index) - sentBefore, '', 0);
    }
    let longest: Pattern | null = null;
    for (const pattern of this.#patterns) if (pattern.matched > (longest?.matched ?? 0)) longest = pattern;
    const numHeld = longest === null ? 0 : longest.matched;
    return this.#release(text, this.#numHeld + text.length - numHeld, longest === null ? '' : longest.text, numHeld);
  }

  /** What is still held at the end of the generation: it was no stop string after all. */
  flush(): string {
    return this.#release('', this.#numHeld, '', 0);
  }

  /** The first `num` units of held text + `text`; from now on `numHeld` units are held, the start of `heldOf`. */
  #release(text: string, num: number, heldOf: string, numHeld: number): string {
    const old = this.#heldOf.slice(0, Math.min(num, this.#numHeld));
    const fresh = text.slice(0, Math.max(0, num - this.#numHeld));
    this.#heldOf = heldOf;
    this.#numHeld = numHeld;
    return old + fresh;
  }

  /** Feeds one unit to every pattern; the longest pattern that is complete with it, else null. */
  #advance(unit: number): string | null {
    let complete: string | null = null;
    for (const pattern of this.#patterns) {
      const { text, failure } = pattern;
      let matched = pattern.matched;
      while (matched > 0 && text.charCodeAt(matched) !== unit) matched = failure[matched]!; // matched <= text.length
      if (text.charCodeAt(matched) === unit) matched++;
      pattern.matched = matched;
      if (matched === text.length && (complete === null || text.length > complete.length)) complete = text;
    }
    return complete;
  }
}

function failureOf(text: string): Int32Array {
  const failure = new Int32Array(text.length + 1);
  let border = 0;
  for (let i = 1; i < text.length; i++) {
    while (border > 0 && text.charCodeAt(border) !== text.charCodeAt(i)) border = failure[border]!; // border <= i
    if (text.charCodeAt(border) === text.charCodeAt(i)) border++;
    failure[i + 1] = border;
  }
  return failure;
}
