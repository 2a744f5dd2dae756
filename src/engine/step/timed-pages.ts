// Owns what the timed device's pages hold: for each token a digest of the prefix that ends with it, checked when it is read.
import { invariant, XllmError } from '../../common/errors.ts';
import { mix } from './hash-sampling.ts';

/** Digest of a prefix: two independent 32-bit lanes. */
export interface PrefixDigest {
  readonly low: number;
  readonly high: number;
}

/** Of the empty prefix. */
export const emptyPrefix: PrefixDigest = { low: 0x1234567, high: 0x89abcde };

export function extendPrefix({ low, high }: PrefixDigest, token: number): PrefixDigest {
  return { low: mix(low, token), high: mix(high, token + 0x5bd1e995) };
}

export const equalPrefix = (a: PrefixDigest, b: PrefixDigest): boolean => a.low === b.low && a.high === b.high;

/** The pages of one cache group. A page knows which block it is and the prefix before it. */
export class TimedPages {
  readonly #blockTokens: number;
  /** [pages] block that the page was written as; -1: never written. */
  readonly #block: Int32Array;
  /** [pages] tokens written. */
  readonly #count: Int32Array;
  /** [pages, 2] digest before the first token. */
  readonly #parent: Int32Array;
  /** [pages, blockTokens, 2] digest after each token. */
  readonly #digest: Int32Array;

  constructor(numPages: number, blockTokens: number) {
    this.#blockTokens = blockTokens;
    this.#block = new Int32Array(numPages).fill(-1);
    this.#count = new Int32Array(numPages);
    this.#parent = new Int32Array(2 * numPages);
    this.#digest = new Int32Array(2 * numPages * blockTokens);
  }

  /** Writes the token at `position`, whose prefix (itself included) has `digest`; `before`: the prefix before it. */
  write(page: number, position: number, before: PrefixDigest, digest: PrefixDigest): void {
    const block = Math.floor(position / this.#blockTokens);
    const offset = position % this.#blockTokens;
    if (offset === 0) {
      this.#block[page] = block;
      this.#parent[2 * page] = before.low;
      this.#parent[2 * page + 1] = before.high;
    }
    if (this.#block[page] !== block || this.#count[page]! < offset) {
      throw new XllmError(
        'internal_error',
        `position ${position} is written to page ${page}, which holds ${this.#count[page]} tokens of block ${this.#block[page]}`,
      );
    }
    this.#count[page] = offset + 1;
    const at = 2 * (page * this.#blockTokens + offset);
    this.#digest[at] = digest.low;
    this.#digest[at + 1] = digest.high;
  }

  /**
   * Reads positions up to `position` through a row's `pages` (by block; -1: given back) and returns the prefix that
   * ends there. Throws XllmError internal_error at a page that is stale, half written or of another prefix.
   */
  read(pages: Int32Array, position: number): PrefixDigest {
    const last = Math.floor(position / this.#blockTokens);
    let before: PrefixDigest | null = null;
    for (let block = 0; block <= last; block++) {
      const page = pages[block];
      invariant(page !== undefined, `block ${block} is not in its row's table`);
      if (page < 0) {
        before = null;
        continue;
      }
      const numNeeded = block === last ? (position % this.#blockTokens) + 1 : this.#blockTokens;
      if (this.#block[page] !== block || this.#count[page]! < numNeeded) {
        throw new XllmError(
          'internal_error',
          `block ${block} is read from page ${page}, which holds ${this.#count[page]} tokens of block ${this.#block[page]}`,
        );
      }
      const parent = { low: this.#parent[2 * page]!, high: this.#parent[2 * page + 1]! };
      const expected = block === 0 ? emptyPrefix : before;
      if (expected && !equalPrefix(expected, parent)) {
        throw new XllmError(
          'internal_error',
          `block ${block} is read from page ${page}, which continues another prefix`,
        );
      }
      before = this.#at(page, numNeeded - 1);
    }
    invariant(before !== null, `position ${position} is read after its page was given back`);
    return before;
  }

  #at(page: number, offset: number): PrefixDigest {
    const at = 2 * (page * this.#blockTokens + offset);
    return { low: this.#digest[at]!, high: this.#digest[at + 1]! };
  }
}
