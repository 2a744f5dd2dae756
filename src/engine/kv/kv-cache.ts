// Owns the KV cache as the scheduler sees it: sequences that hold blocks, over all cache groups at once. Pure.
import type { BlockDigest } from '../../common/block-digest.ts';
import { invariant } from '../../common/errors.ts';
import type { PageId } from '../../common/ids.ts';
import { type CacheGroup, maxPagesPerSequence } from './cache-group.ts';
import { type BlockList, GroupCache, type KvGroupStats } from './group-cache.ts';
import { KvExchange } from './kv-exchange.ts';
import { type KvEventBatch, KvEventLog } from './kv-events.ts';
import { noPage } from './page-pool.ts';
import { isForeign } from './page-ref.ts';
import { Ranges } from './ranges.ts';
import type { GroupTables } from './tables.ts';

export interface KvCacheOptions {
  readonly groups: readonly CacheGroup[];
  /** [G] pages of each group's pool. */
  readonly numPages: readonly number[];
  readonly blockTokens: number;
  readonly maxModelLen: number;
  /** Most tokens of one sequence in one step: bounds what a sliding window holds. */
  readonly maxStepTokens: number;
  /** xTensor ranges; 0: every sequence is a list of blocks. */
  readonly numRangeSlots: number;
  /** Kernel mappings that the ranges may consist of. */
  readonly maxMappings: number;
  /** Events kept for listeners that fall behind. */
  readonly maxEvents?: number;
}

/** What a sequence holds. Opaque outside of this module. */
export interface KvSequence {
  /** [G] */
  readonly lists: readonly BlockList[];
  /** -1: none. */
  readonly rangeSlot: number;
  /** false: there is no range, or the mapping limit was reached and the sequence goes on as a block list. */
  isRanged: boolean;
  /** Blocks whose content is confirmed and offered to the prefix cache. */
  numPublished: number;
}

export interface KvStats {
  readonly groups: readonly KvGroupStats[];
  /** Kernel mappings of the ranges. */
  readonly numMappings: number;
  readonly numSequences: number;
}

export class KvCache {
  readonly blockTokens: number;
  /** What passes between instances. */
  readonly exchange: KvExchange;
  readonly #groups: readonly GroupCache[];
  /** The first paged group keeps blocks longest, so its events speak for the instance. */
  readonly #spokesman: GroupCache;
  readonly #ranges: Ranges;
  readonly #events: KvEventLog;
  readonly #live = new Set<KvSequence>();
  readonly #maxStepTokens: number;

  constructor(options: KvCacheOptions) {
    const { groups, numPages, blockTokens, maxModelLen, maxStepTokens, maxEvents = 1 << 16 } = options;
    this.blockTokens = blockTokens;
    this.#maxStepTokens = maxStepTokens;
    this.#events = new KvEventLog(maxEvents);
    const firstPaged = groups.findIndex((group) => group.kind.type === 'paged');
    const spokesman = Math.max(0, firstPaged);
    this.#groups = groups.map((spec, g) => {
      const size = numPages[g];
      invariant(size !== undefined && size > 0, `cache group ${spec.name} has no pages`);
      return new GroupCache(spec, size, blockTokens, g === spokesman ? this.#events : null);
    });
    this.#spokesman = this.#groups[spokesman]!;
    const maxBlocks = Math.ceil(maxModelLen / blockTokens);
    this.#ranges = new Ranges(groups.length, options.numRangeSlots, maxBlocks, options.maxMappings);
    this.exchange = new KvExchange(this.#groups, blockTokens, (...entered) => this.#enter(...entered));
  }

  /** Whether a sequence that grows to `numTokens` fits when it has the pools to itself. */
  fitsAlone(numTokens: number): boolean {
    return this.#groups.every(
      ({ spec, pool }) =>
        maxPagesPerSequence(spec.kind, numTokens, this.blockTokens, this.#maxStepTokens) <= pool.numPages,
    );
  }

  /** Blocks from the start, at most `maxBlocks`, of which every group has all that the next token reads. */
  match(digests: readonly BlockDigest[], maxBlocks: number): number {
    let numBlocks = Math.min(maxBlocks, digests.length);
    // Where one window group must go lower, another's window lies elsewhere: until all agree.
    for (let before = -1; before !== numBlocks; ) {
      before = numBlocks;
      for (const group of this.#groups) numBlocks = group.match(digests, numBlocks);
    }
    return numBlocks;
  }

  /**
   * Holds the first `numCached` blocks of a `match` and takes pages for the rest up to `numTokens` (in groups with a
   * window `tryAppend` takes them, step by step). null, and nothing is changed, when that would leave less than
   * `numHeadroom` pages.
   */
  tryAllocate(
    digests: readonly BlockDigest[],
    numCached: number,
    numTokens: number,
    numHeadroom: number,
  ): KvSequence | null {
    const numBlocks = Math.ceil(numTokens / this.blockTokens);
    for (const group of this.#groups) {
      const numNew = group.isWindow ? 0 : numBlocks - numCached;
      const numUsed = numNew + group.numUsedByHit(digests, numCached);
      if (numUsed + numHeadroom > group.pool.numAvailable) return null;
    }
    const lists = this.#groups.map((group) => group.hold(digests, numCached, numBlocks + 1));
    const sequence = this.#enter(lists, numCached);
    this.#groups.forEach((group, g) => {
      if (!group.isWindow) this.#extend(sequence, g, numBlocks);
    });
    return sequence;
  }

  /** Makes room for `numTokens` positions in every group; false, and nothing is changed, when pages are short. */
  tryAppend(sequence: KvSequence, numTokens: number): boolean {
    const numBlocks = Math.ceil(numTokens / this.blockTokens);
    for (let g = 0; g < this.#groups.length; g++) {
      if (numBlocks - sequence.lists[g]!.numBlocks > this.#groups[g]!.pool.numAvailable) return false;
    }
    for (let g = 0; g < this.#groups.length; g++) this.#extend(sequence, g, numBlocks);
    return true;
  }

  /**
   * Offers the first `numBlocks` blocks to the prefix cache. Their tokens must be confirmed, their keys and values
   * written by committed steps.
   */
  publish(sequence: KvSequence, digests: readonly BlockDigest[], numBlocks: number): void {
    for (let block = sequence.numPublished; block < numBlocks; block++) {
      const digest = digests[block];
      invariant(digest !== undefined, `block ${block} is published without a digest`);
      for (let g = 0; g < this.#groups.length; g++) {
        const page = sequence.lists[g]!.pages[block]! as PageId;
        // A foreign page is offered once it has been copied.
        if (page !== noPage && !isForeign(page)) this.#groups[g]!.prefix.insert(digest, page);
      }
    }
    sequence.numPublished = Math.max(sequence.numPublished, numBlocks);
  }

  /** Gives back the pages that no token from `position` on reads. No uncommitted step may read them. */
  releaseBefore(sequence: KvSequence, position: number): void {
    for (let g = 0; g < this.#groups.length; g++) {
      if (this.#groups[g]!.isWindow) this.#groups[g]!.releaseBefore(sequence.lists[g]!, position);
    }
  }

  /**
   * A sequence with the same first `numTokens` tokens: full blocks are shared, the partial one gets pages of its own,
   * to be filled by the `copies` ([G] pairs of pages, from and to). null, and nothing is changed, when pages are short.
   */
  fork(parent: KvSequence, numTokens: number): { sequence: KvSequence; copies: readonly Int32Array[] } | null {
    const numFull = Math.floor(numTokens / this.blockTokens);
    const hasPartial = numTokens % this.blockTokens > 0;
    if (hasPartial && this.#groups.some(({ pool }) => pool.numAvailable === 0)) return null;
    const lists = this.#groups.map((group, g) => group.share(parent.lists[g]!, numFull));
    const sequence = this.#enter(lists, Math.min(parent.numPublished, numFull));
    const copies = lists.map((list, g) => {
      if (!hasPartial) return new Int32Array(0);
      this.#extend(sequence, g, numFull + 1);
      return Int32Array.of(parent.lists[g]!.pages[numFull]!, list.pages[numFull]!);
    });
    return { sequence, copies };
  }

  /**
   * Forgets positions from `numTokens` on, and returns how many are kept: fewer, down to a block border, where the
   * partial block cannot be written again because others read it. No uncommitted step may use what is forgotten, and
   * a window must not have moved past it.
   */
  truncate(sequence: KvSequence, numTokens: number): number {
    const numFull = Math.floor(numTokens / this.blockTokens);
    const hasPartial = numTokens % this.blockTokens > 0;
    const keepsPartial = hasPartial && sequence.lists.every((list, g) => this.#groups[g]!.isPrivate(list, numFull));
    const numBlocks = keepsPartial ? numFull + 1 : numFull;
    sequence.lists.forEach((list, g) => {
      const group = this.#groups[g]!;
      invariant(list.firstBlock <= group.firstBlockRead(numFull * this.blockTokens), 'the window has moved past it');
      group.shrink(list, numBlocks);
    });
    sequence.numPublished = Math.min(sequence.numPublished, numFull);
    return keepsPartial ? numTokens : numFull * this.blockTokens;
  }

  /** Gives everything back. No uncommitted step may use the sequence. */
  free(sequence: KvSequence): void {
    invariant(this.#live.delete(sequence), 'a sequence is freed twice');
    sequence.lists.forEach((list, g) => this.#groups[g]!.shrink(list, list.firstBlock));
    this.#ranges.giveBack(sequence.rangeSlot);
  }

  /**
   * [G] tables of a step whose row r covers positions up to `ends[r]`, and what to map for it. Plans must be prepared
   * in the order in which their tables were built.
   */
  buildTables(sequences: readonly KvSequence[], ends: Int32Array): GroupTables[] {
    const numRows = sequences.length;
    const pageStart = new Int32Array(numRows + 1);
    const rangeSlot = new Int32Array(numRows);
    for (let row = 0; row < numRows; row++) {
      const sequence = sequences[row]!;
      const numBlocks = Math.ceil(ends[row]! / this.blockTokens);
      if (sequence.isRanged) this.#map(sequence, numBlocks);
      rangeSlot[row] = sequence.isRanged ? sequence.rangeSlot : -1;
      pageStart[row + 1] = pageStart[row]! + numBlocks;
    }
    return this.#groups.map(({ pool }, g) => {
      const pages = new Int32Array(pageStart[numRows]!);
      for (let row = 0; row < numRows; row++) {
        const from = pageStart[row]!;
        const list = sequences[row]!.lists[g]!;
        pages.set(list.pages.subarray(0, pageStart[row + 1]! - from), from);
      }
      const mapOps = this.#ranges.takeMapOps(g);
      return { pageStart, pages, rangeSlot, mapOps, numPagesTouched: pool.numTouched };
    });
  }

  /** Lowers a group's pool to the pages that memory could be found for. */
  limitPages(group: number, numPages: number): void {
    this.#groups[group]!.pool.limit(numPages);
  }

  /** Prefix-cache events after a number; 0: a snapshot. */
  eventsSince(after: number): KvEventBatch {
    return this.#events.since(after, () => this.#spokesman.prefix.digests());
  }

  stats(): KvStats {
    return {
      groups: this.#groups.map((group) => group.stats()),
      numMappings: this.#ranges.numMappings,
      numSequences: this.#live.size,
    };
  }

  /** Throws unless references, states, lists, digests and ranges tell the same. O(pages). */
  checkIntegrity(): void {
    this.#groups.forEach((group, g) => group.checkIntegrity([...this.#live].map(({ lists }) => lists[g]!)));
    this.#ranges.checkIntegrity([...this.#live].filter(({ isRanged }) => isRanged));
  }

  #enter(lists: readonly BlockList[], numPublished: number, mayBeRanged = true): KvSequence {
    const rangeSlot = mayBeRanged ? this.#ranges.take(lists) : -1;
    const sequence = { lists, rangeSlot, isRanged: rangeSlot >= 0, numPublished };
    this.#live.add(sequence);
    return sequence;
  }

  #extend(sequence: KvSequence, g: number, numBlocks: number): void {
    const list = sequence.lists[g]!;
    while (list.numBlocks < numBlocks) {
      this.#groups[g]!.append(list, this.#ranges.page(g, sequence.rangeSlot, list.numBlocks));
    }
  }

  /** Maps the sequence's blocks up to `numBlocks`; past the mapping limit it goes on as a block list. */
  #map(sequence: KvSequence, numBlocks: number): void {
    for (let g = 0; g < this.#groups.length; g++) {
      const list = sequence.lists[g]!;
      if (!this.#ranges.hasRoomFor(numBlocks - list.numMapped)) {
        sequence.isRanged = false;
        return;
      }
      for (; list.numMapped < numBlocks; list.numMapped++) {
        const page = list.pages[list.numMapped]! as PageId;
        this.#ranges.map(g, sequence.rangeSlot, list.numMapped, page);
        this.#groups[g]!.pool.setMapped(page);
      }
    }
  }
}
