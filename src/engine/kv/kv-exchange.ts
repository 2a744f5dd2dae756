// Owns the KV of sequences on their way between instances: room for what comes, pages lent to others, foreign ones made
// our own. Pure.
import type { BlockDigest } from '../../common/block-digest.ts';
import { invariant } from '../../common/errors.ts';
import type { PageId } from '../../common/ids.ts';
import type { BlockList, GroupCache } from './group-cache.ts';
import type { KvSequence } from './kv-cache.ts';
import { noPage } from './page-pool.ts';
import { isForeign } from './page-ref.ts';

/** Pages of one cache group, of consecutive blocks. */
export interface BlockRun {
  readonly firstBlock: number;
  readonly pages: Int32Array;
}

/** A full block to be copied out of a foreign page. */
export interface BlockCopy {
  readonly sequence: KvSequence;
  readonly group: number;
  readonly block: number;
  readonly digest: BlockDigest;
  readonly from: number;
  readonly to: PageId;
}

export class KvExchange {
  readonly #groups: readonly GroupCache[];
  readonly #blockTokens: number;
  readonly #enter: (lists: readonly BlockList[], numPublished: number, isRanged: boolean) => KvSequence;

  constructor(
    groups: readonly GroupCache[],
    blockTokens: number,
    enter: (lists: readonly BlockList[], numPublished: number, isRanged: boolean) => KvSequence,
  ) {
    this.#groups = groups;
    this.#blockTokens = blockTokens;
    this.#enter = enter;
  }

  /**
   * Room for a sequence of `numTokens` tokens from elsewhere: holds the first `numCached` blocks of a `match` and takes
   * pages for those that come; none where the source's own pages are to be attached. null, and nothing is changed, when
   * that would leave less than `numHeadroom` pages.
   */
  tryReserve(
    digests: readonly BlockDigest[],
    numCached: number,
    numTokens: number,
    { numHeadroom, attaches }: { readonly numHeadroom: number; readonly attaches: boolean },
  ): KvSequence | null {
    const numBlocks = Math.ceil(numTokens / this.#blockTokens);
    for (const group of this.#groups) {
      const numNew = attaches ? 0 : numBlocks - Math.max(numCached, group.firstBlockRead(numTokens));
      const numUsed = Math.max(0, numNew) + group.numUsedByHit(digests, numCached);
      if (numUsed + numHeadroom > group.pool.numAvailable) return null;
    }
    const lists = this.#groups.map((group) => {
      const list = group.hold(digests, numCached, numBlocks + 1);
      if (!attaches) {
        group.skipTo(list, group.firstBlockRead(numTokens));
        while (list.numBlocks < numBlocks) group.append(list, noPage);
      }
      return list;
    });
    return this.#enter(lists, numCached, !attaches);
  }

  /** Adds a foreign block; blocks between are left out, where a sliding window has passed them. */
  attach(sequence: KvSequence, group: number, { firstBlock, pages }: BlockRun): void {
    const [cache, list] = this.#of(sequence, group);
    invariant(!sequence.isRanged, 'a foreign page cannot be mapped into a range');
    if (firstBlock > list.numBlocks) cache.skipTo(list, firstBlock);
    invariant(
      firstBlock === list.numBlocks || pages.length === 0,
      `block ${firstBlock} does not follow ${list.numBlocks}`,
    );
    for (const page of pages) cache.attach(list, page);
  }

  /** Blocks of [fromBlock, that of the last of `numTokens` tokens] that the next token reads, by cache group. */
  blocks(sequence: KvSequence, fromBlock: number, numTokens: number): BlockRun[] {
    const end = Math.ceil(numTokens / this.#blockTokens);
    return this.#groups.map((group, g) => {
      const list = sequence.lists[g]!;
      const firstBlock = Math.min(end, Math.max(fromBlock, list.firstBlock, group.firstBlockRead(numTokens)));
      return { firstBlock, pages: list.pages.slice(firstBlock, end) };
    });
  }

  /** First block that a token after `numTokens` others reads. */
  firstRead(group: number, numTokens: number): number {
    return this.#groups[group]?.firstBlockRead(numTokens) ?? 0;
  }

  /** The pages stay as they are until `takeBack`, whatever becomes of their sequence. */
  lend(runs: readonly BlockRun[]): void {
    runs.forEach(({ pages }, g) => {
      for (const page of pages) this.#groups[g]!.lend(page as PageId);
    });
  }

  /** false: the page was not lent, and nothing is changed. */
  takeBack(group: number, page: number): boolean {
    const cache = this.#groups[group];
    if (!cache?.isLent(page)) return false;
    cache.takeBack(page as PageId);
    return true;
  }

  get numLent(): number {
    return this.#groups.reduce((sum, { numLent }) => sum + numLent, 0);
  }

  /** [G] pages that must have memory before a transfer writes to those that were taken. */
  get numTouched(): number[] {
    return this.#groups.map(({ pool }) => pool.numTouched);
  }

  hasForeign(sequence: KvSequence): boolean {
    return sequence.lists.some(({ pages, firstBlock, numBlocks }) => {
      for (let block = firstBlock; block < numBlocks; block++) if (isForeign(pages[block]!)) return true;
      return false;
    });
  }

  /** Foreign pages of the sequence, by cache group. */
  foreignPages(sequence: KvSequence): number[][] {
    return sequence.lists.map(({ pages, firstBlock, numBlocks }) =>
      [...pages.subarray(firstBlock, numBlocks)].filter(isForeign),
    );
  }

  /**
   * Takes pages for up to `max` of the sequence's first `numBlocks` blocks, which must be full and committed, where they
   * are foreign; those that are cached by now need none. Each copy must be ended.
   */
  startCopies(
    sequence: KvSequence,
    digests: readonly BlockDigest[],
    numBlocks: number,
    { max, numHeadroom }: { readonly max: number; readonly numHeadroom: number },
  ): BlockCopy[] {
    const copies: BlockCopy[] = [];
    this.#groups.forEach((cache, group) => {
      const list = sequence.lists[group]!;
      for (let block = list.firstBlock; block < Math.min(numBlocks, list.numBlocks); block++) {
        const from = list.pages[block]!;
        const digest = digests[block];
        if (!isForeign(from) || digest === undefined) continue;
        const cached = cache.prefix.lookup(digest);
        if (cached !== noPage) {
          cache.replaceShared(list, block, cached);
          continue;
        }
        if (copies.length >= max || cache.pool.numAvailable <= numHeadroom) return;
        copies.push({ sequence, group, block, digest, from, to: cache.takePage() });
      }
    });
    return copies;
  }

  /** `isGood`: the page was copied while it could be read. */
  endCopy({ sequence, group, block, digest, from, to }: BlockCopy, isGood: boolean): void {
    const [cache, list] = this.#of(sequence, group);
    // The sequence may have ended or have got the block otherwise.
    if (!isGood || list.pages[block] !== from) {
      cache.takeBack(to);
      return;
    }
    cache.replace(list, block, to);
    if (block < sequence.numPublished) cache.prefix.insert(digest, to);
  }

  /** [G] foreign pages that no sequence holds any more since the last call. A step in flight may still read them. */
  takeDropped(): number[][] {
    return this.#groups.map((group) => group.takeDropped());
  }

  #of(sequence: KvSequence, group: number): [GroupCache, BlockList] {
    const [cache, list] = [this.#groups[group], sequence.lists[group]];
    invariant(cache && list, `there is no cache group ${group}`);
    return [cache, list];
  }
}
