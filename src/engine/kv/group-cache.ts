// Owns one cache group: its pool, its prefix cache, and the block lists of sequences in it. Pure.
import type { BlockDigest } from '../../common/block-digest.ts';
import { invariant } from '../../common/errors.ts';
import type { PageId } from '../../common/ids.ts';
import { type CacheGroup, firstReadPosition } from './cache-group.ts';
import type { KvEventLog } from './kv-events.ts';
import { noPage, PagePool } from './page-pool.ts';
import { isForeign, maxPoolPages } from './page-ref.ts';
import { PrefixCache } from './prefix-cache.ts';

/** One group's blocks of a sequence. */
export interface BlockList {
  /** Page by block (page-ref.ts), foreign ones in front of the instance's own; -1 before `firstBlock` and from `numBlocks` on. Grows by doubling. */
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
  /** [pages] references that transfers hold: pages lent to another instance, or being filled by it. */
  readonly #lent: Uint16Array;
  #numLent = 0;
  /** Foreign pages that no list holds any more, to be fetched. */
  #dropped: number[] = [];

  constructor(spec: CacheGroup, numPages: number, blockTokens: number, events: KvEventLog | null) {
    invariant(numPages <= maxPoolPages, `a pool of ${numPages} pages, ${maxPoolPages} have numbers`);
    this.#lent = new Uint16Array(numPages);
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

  /** Leaves out the blocks before `firstBlock`: what was held of them is released. */
  skipTo(list: BlockList, firstBlock: number): void {
    if (list.firstBlock >= firstBlock) return;
    while (list.firstBlock < Math.min(firstBlock, list.numBlocks)) this.#release(list, list.firstBlock++);
    list.firstBlock = firstBlock;
    list.numBlocks = Math.max(list.numBlocks, firstBlock);
    list.numMapped = Math.max(list.numMapped, firstBlock);
    reach(list, firstBlock);
  }

  /** Adds a block that lies in another instance's pool. */
  attach(list: BlockList, page: number): void {
    invariant(isForeign(page), `page ${page} is attached but our own`);
    reach(list, list.numBlocks + 1);
    list.pages[list.numBlocks++] = page;
  }

  /** Takes a page for a transfer to fill; noPage: none is left. */
  takePage(): PageId {
    if (this.pool.numAvailable === 0) return noPage;
    const page = this.#allocate(noPage);
    this.#lent[page]!++;
    this.#numLent++;
    return page;
  }

  /** Holds a page for a transfer that reads it, whoever else gives it back meanwhile. */
  lend(page: PageId): void {
    this.pool.share(page);
    this.#lent[page]!++;
    this.#numLent++;
  }

  isLent(page: number): boolean {
    return (this.#lent[page] ?? 0) > 0;
  }

  /** What `takePage` and `lend` hold is given back. */
  takeBack(page: PageId): void {
    invariant(this.isLent(page), `page ${page} is returned but was not lent`);
    this.#lent[page]!--;
    this.#numLent--;
    this.pool.release(page, this.prefix.has(page));
  }

  /** The block is the list's own from now on: `page`, of `takePage`, has its content. */
  replace(list: BlockList, block: number, page: PageId): void {
    invariant(this.isLent(page), `page ${page} replaces another but was not taken`);
    this.#drop(list.pages[block]!);
    this.#lent[page]!--;
    this.#numLent--;
    list.pages[block] = page;
  }

  /** The same with a page that is cached already. */
  replaceShared(list: BlockList, block: number, page: PageId): void {
    this.#drop(list.pages[block]!);
    this.pool.share(page);
    list.pages[block] = page;
  }

  takeDropped(): number[] {
    const dropped = this.#dropped;
    this.#dropped = [];
    return dropped;
  }

  get numLent(): number {
    return this.#numLent;
  }

  /** Adds one block, evicting the page that was cached longest ago if none is free. `wanted`: a page, if it is free. */
  append(list: BlockList, wanted: number): void {
    const block = list.numBlocks;
    reach(list, block + 1);
    // Cheapest first: what is mapped there already, the neighbour (one mapping, one segment), any.
    const preferred = block === list.firstBlock || this.pool.isFree(wanted) ? wanted : list.pages[block - 1]! + 1;
    list.pages[block] = this.#allocate(preferred);
    list.numBlocks++;
  }

  /** Whether the block can be written again: nobody else reads it, nobody finds it. */
  isPrivate(list: BlockList, block: number): boolean {
    const page = list.pages[block]! as PageId;
    return page !== noPage && !isForeign(page) && this.pool.refs(page) === 1 && !this.prefix.has(page);
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
        if (isHeld && !isForeign(page)) refs[page]!++;
      }
    }
    this.#lent.forEach((count, page) => {
      refs[page]! += count;
    });
    refs.forEach((count, page) => {
      const held = this.pool.refs(page as PageId);
      invariant(count === held, `page ${page} is held ${count} times and counted ${held}`);
    });
  }

  #allocate(preferred: number): PageId {
    const page = this.pool.allocate(preferred);
    if (page !== noPage) return page;
    const oldest = this.pool.oldestRetained();
    invariant(oldest !== noPage, 'pages were promised and are gone');
    this.prefix.forget(oldest);
    this.pool.discard(oldest);
    return this.pool.allocate(oldest);
  }

  #release(list: BlockList, block: number): void {
    const page = list.pages[block]! as PageId;
    if (isForeign(page)) this.#drop(page);
    else this.pool.release(page, this.prefix.has(page));
    list.pages[block] = noPage;
  }

  #drop(page: number): void {
    invariant(isForeign(page), `page ${page} is dropped but our own`);
    this.#dropped.push(page);
  }
}

function reach(list: BlockList, numBlocks: number): void {
  if (numBlocks <= list.pages.length) return;
  const grown = new Int32Array(Math.max(numBlocks, 2 * list.pages.length)).fill(noPage);
  grown.set(list.pages);
  list.pages = grown;
}
