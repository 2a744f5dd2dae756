// Owns what the timed device's pages hold: for each token a digest of the prefix that ends with it, checked when it is read.
import { invariant, XllmError } from '../../common/errors.ts';
import { indexOf, poolOf } from '../kv/page-ref.ts';
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

/** i32 fields of a page; then [blockTokens, 2] the digest after each token. */
const field = { block: 0, count: 1, parent: 2, digests: 4 } as const;

/** Bytes of a page. */
export function timedPageBytes(blockTokens: number): number {
  return 4 * (field.digests + 2 * blockTokens);
}

/** The pages of one cache group. A page knows which block it is (plus one: 0 was never written) and the prefix before it. */
export class TimedPages {
  readonly #blockTokens: number;
  readonly #stride: number;
  /** By pool (page-ref.ts). */
  readonly #pools: Int32Array[];

  constructor(own: Int32Array, blockTokens: number) {
    this.#blockTokens = blockTokens;
    this.#stride = timedPageBytes(blockTokens) / 4;
    this.#pools = [own];
  }

  /** Makes a paired instance's pages reachable; null: not any more. */
  setPool(pool: number, pages: Int32Array | null): void {
    this.#pools[pool] = pages ?? new Int32Array(0);
  }

  /** [stride] */
  page(page: number): Int32Array {
    const at = indexOf(page) * this.#stride;
    const pool = this.#pools[poolOf(page)];
    invariant(pool && at + this.#stride <= pool.length, `page ${page} is in no pool`);
    return pool.subarray(at, at + this.#stride);
  }

  /** Writes the token at `position`, whose prefix (itself included) has `digest`; `before`: the prefix before it. */
  write(page: number, position: number, before: PrefixDigest, digest: PrefixDigest): void {
    const block = Math.floor(position / this.#blockTokens);
    const offset = position % this.#blockTokens;
    const content = this.page(page);
    if (offset === 0) {
      content[field.block] = block + 1;
      content[field.parent] = before.low;
      content[field.parent + 1] = before.high;
    }
    if (content[field.block] !== block + 1 || content[field.count]! < offset)
      throw new XllmError('internal_error', `position ${position} is written to page ${page}, ${holds(content)}`);
    content[field.count] = offset + 1;
    content[field.digests + 2 * offset] = digest.low;
    content[field.digests + 2 * offset + 1] = digest.high;
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
      const content = this.page(page);
      const numNeeded = block === last ? (position % this.#blockTokens) + 1 : this.#blockTokens;
      if (content[field.block] !== block + 1 || content[field.count]! < numNeeded)
        throw new XllmError('internal_error', `block ${block} is read from page ${page}, ${holds(content)}`);
      const parent = { low: content[field.parent]!, high: content[field.parent + 1]! };
      const expected = block === 0 ? emptyPrefix : before;
      if (expected && !equalPrefix(expected, parent)) {
        throw new XllmError(
          'internal_error',
          `block ${block} is read from page ${page}, which continues another prefix`,
        );
      }
      const at = field.digests + 2 * (numNeeded - 1);
      before = { low: content[at]!, high: content[at + 1]! };
    }
    invariant(before !== null, `position ${position} is read after its page was given back`);
    return before;
  }
}

function holds(content: Int32Array): string {
  return `which holds ${content[field.count]} tokens of block ${content[field.block]! - 1}`;
}
