// Owns one cache group: its pool, its prefix cache, and the block lists of sequences in it. Pure.
import type { BlockDigest } from '../../common/block-digest.ts';
import { invariant } from '../../common/errors.ts';
import type { PageId } from '../../common/ids.ts';
import { type CacheGroup, firstReadPosition } from './cache-group.ts';
import type { KvEventLog } from './kv-events.ts';
import { noPage, PagePool } from './page-pool.ts';
import { PrefixCache } from './prefix-cache.ts';

/** One group's blocks of a sequence. */
export interface BlockList {
  /** Page by block; -1 before `firstBlock` and from `numBlocks` on. Grows by doubling. */
  pages: Int32Array;
  /** Blocks before it were released, or never taken from the cache. */
  firstBlock: number;
  numBlocks: number;
  /** Blocks known to be mapped into the sequence's range. */
  numMapped: number;
}

export interface KvGroupStats {
  readonly name: string;
  readonly numPages: number;
  readonly numFree: number;
  readonly numAllocated: number;
  readonly numMapped: number;
  readonly numReusable: number;
  /** Pages found by their digest, in use or not. */
  readonly numCached: number;
}

export class GroupCache {
  readonly spec: CacheGroup;
  readonly pool: PagePool;
  readonly prefix: PrefixCache;
  readonly #blockTokens: number;

  constructor(spec: CacheGroup, numPages: number, blockTokens: number, events: KvEventLog | null) {
    this.spec = spec;
    this.pool = new PagePool(numPages);
    this.prefix = new PrefixCache(numPages, events);
    this.#blockTokens = blockTokens;
  }

  get isWindow(): boolean {
    return this.spec.kind.type === 'window';
  }

  /** First block that a token at `position` or later reads. */
  firstBlockRead(position: number): number {
    return Math.floor(firstReadPosition(this.spec.kind, position) / this.#blockTokens);
  }

  /** Most blocks, at most `limit`, for which the group has all that the next token reads. */
  match(digests: readonly BlockDigest[], limit: number): number {
    if (!this.isWindow) {
      let numHits = 0;
      while (numHits < limit && this.prefix.lookup(digests[numHits]!) !== noPage) numHits++;
      return numHits;
    }
    // Walks down through the last window; a missing block means that it and all after it must go.
    let numBlocks = limit;
    for (let block = limit - 1; block >= this.firstBlockRead(numBlocks * this.#blockTokens); block--) {
      if (this.prefix.lookup(digests[block]!) === noPage) numBlocks = block;
    }
    return numBlocks;
  }

  /** Available pages that holding the first `numCached` blocks of a match would use up. */
  numUsedByHit(digests: readonly BlockDigest[], numCached: number): number {
    let numUsed = 0;
    for (let block = this.firstBlockRead(numCached * this.#blockTokens); block < numCached; block++) {
      if (this.pool.refs(this.prefix.lookup(digests[block]!)) === 0) numUsed++;
    }
    return numUsed;
  }

  /** A list that shares the first `numCached` blocks of a match, with space for `capacity`. */
  hold(digests: readonly BlockDigest[], numCached: number, capacity: number): BlockList {
    const firstBlock = this.firstBlockRead(numCached * this.#blockTokens);
    const pages = new Int32Array(Math.max(8, capacity)).fill(noPage);
    for (let block = firstBlock; block < numCached; block++) {
      const page = this.prefix.lookup(digests[block]!);
      this.pool.share(page);
      pages[block] = page;
    }
    return { pages, firstBlock, numBlocks: numCached, numMapped: firstBlock };
  }

  /** A second list over the first `numBlocks` blocks. */
  share(list: BlockList, numBlocks: number): BlockList {
    const pages = list.pages.slice().fill(noPage, numBlocks);
    for (let block = list.firstBlock; block < numBlocks; block++) this.pool.share(pages[block]! as PageId);
    return { pages, firstBlock: list.firstBlock, numBlocks, numMapped: list.firstBlock };
  }

  /** Adds one block, evicting the page that was cached longest ago if none is free. `wanted`: a page, if it is free. */
  append(list: BlockList, wanted: number): void {
    const block = list.numBlocks;
    if (block === list.pages.length) {
      const grown = new Int32Array(2 * block).fill(noPage);
      grown.set(list.pages);
      list.pages = grown;
    }
    // Cheapest first: what is mapped there already, the neighbour (one mapping, one segment), any.
    const preferred = block === list.firstBlock || this.pool.isFree(wanted) ? wanted : list.pages[block - 1]! + 1;
    let page = this.pool.allocate(preferred);
    if (page === noPage) {
      const oldest = this.pool.oldestRetained();
      invariant(oldest !== noPage, 'pages were promised and are gone');
      this.prefix.forget(oldest);
      this.pool.discard(oldest);
      page = this.pool.allocate(oldest);
    }
    list.pages[block] = page;
    list.numBlocks++;
  }

  /** Whether the block can be written again: nobody else reads it, nobody finds it. */
  isPrivate(list: BlockList, block: number): boolean {
    const page = list.pages[block]! as PageId;
    return page !== noPage && this.pool.refs(page) === 1 && !this.prefix.has(page);
  }

  /** Drops blocks from the back. Tails are released first, and so evicted first: without its head none is found. */
  shrink(list: BlockList, numBlocks: number): void {
    while (list.numBlocks > numBlocks) this.#release(list, --list.numBlocks);
    list.numMapped = Math.min(list.numMapped, list.numBlocks);
  }

  /** Drops blocks from the front, those that no token from `position` on reads. */
  releaseBefore(list: BlockList, position: number): void {
    const keep = Math.min(list.numBlocks, this.firstBlockRead(position));
    for (; list.firstBlock < keep; list.firstBlock++) this.#release(list, list.firstBlock);
    list.numMapped = Math.max(list.numMapped, list.firstBlock);
  }

  stats(): KvGroupStats {
    return {
      name: this.spec.name,
      numPages: this.pool.numPages,
      numFree: this.pool.count('free'),
      numAllocated: this.pool.count('allocated'),
      numMapped: this.pool.count('mapped'),
      numReusable: this.pool.count('reusable'),
      numCached: this.prefix.size,
    };
  }

  /** Throws unless references, states, lists and digests tell the same. `lists`: all that live. O(pages). */
  checkIntegrity(lists: Iterable<BlockList>): void {
    this.pool.checkIntegrity();
    this.prefix.checkIntegrity();
    const refs = new Int32Array(this.pool.numPages);
    for (const list of lists) {
      for (let block = 0; block < list.pages.length; block++) {
        const page = list.pages[block]!;
        const isHeld = block >= list.firstBlock && block < list.numBlocks;
        invariant(page >= 0 === isHeld, `block ${block} of ${list.firstBlock}..${list.numBlocks} has page ${page}`);
        if (isHeld) refs[page]!++;
      }
    }
    refs.forEach((count, page) => {
      const held = this.pool.refs(page as PageId);
      invariant(count === held, `page ${page} is held ${count} times and counted ${held}`);
    });
  }

  #release(list: BlockList, block: number): void {
    const page = list.pages[block]! as PageId;
    this.pool.release(page, this.prefix.has(page));
    list.pages[block] = noPage;
  }
}
