// Owns the virtual ranges: which sequence has which, what each has mapped, and what that costs in kernel mappings. Pure.
import { invariant } from '../../common/errors.ts';

/** Blocks of a sequence that wants a range, of one group. */
interface WantedBlocks {
  readonly pages: Int32Array;
  readonly firstBlock: number;
  readonly numBlocks: number;
}

/** What a sequence believes to be mapped into its range. */
interface RangeUser {
  readonly rangeSlot: number;
  readonly lists: readonly { readonly pages: Int32Array; readonly firstBlock: number; readonly numMapped: number }[];
}

/**
 * Mirrors the address space: `prepare` of the KV space makes it true, plan by plan. What an idle range still maps is
 * kept, for a sequence that wants the same page at the same block. A slot is one range in each group.
 */
export class Ranges {
  readonly #maxBlocks: number;
  readonly #maxMappings: number;
  /** [G] of [slots, maxBlocks] mapped page, -1: none. */
  readonly #mapped: readonly Int32Array[];
  /** Last given back is last. */
  readonly #idle: number[];
  readonly #mapOps: number[][];
  #numMappings: number;

  constructor(numGroups: number, numSlots: number, maxBlocks: number, maxMappings: number) {
    this.#maxBlocks = maxBlocks;
    this.#maxMappings = maxMappings;
    this.#mapped = Array.from({ length: numGroups }, () => new Int32Array(numSlots * maxBlocks).fill(-1));
    this.#mapOps = Array.from({ length: numGroups }, () => []);
    this.#idle = Array.from({ length: numSlots }, (_, i) => numSlots - 1 - i);
    // Each group's ranges begin as one reserved area.
    this.#numMappings = numSlots > 0 ? numGroups : 0;
  }

  /** Kernel memory areas that all ranges consist of: the kernel merges neighbours whose file offsets follow on. */
  get numMappings(): number {
    return this.#numMappings;
  }

  /** Takes the idle range that has most of the leading blocks mapped already, or the youngest; -1: none is idle. */
  take(lists: readonly WantedBlocks[]): number {
    if (this.#idle.length === 0) return -1;
    let best = this.#idle.length - 1;
    let bestHits = this.#numHits(best, lists[0]);
    for (let i = best - 1; i >= 0 && bestHits < numWanted(lists[0]); i--) {
      const hits = this.#numHits(i, lists[0]);
      if (hits > bestHits) [best, bestHits] = [i, hits];
    }
    return this.#idle.splice(best, 1)[0]!;
  }

  /** The range keeps its mappings. No uncommitted step may read it. -1 is ignored. */
  giveBack(slot: number): void {
    if (slot >= 0) this.#idle.push(slot);
  }

  /** What is mapped there; -1: nothing, or no slot. */
  page(group: number, slot: number, block: number): number {
    return slot < 0 ? -1 : this.#mapped[group]![slot * this.#maxBlocks + block]!;
  }

  /** Whether that many more blocks can be mapped whatever their pages: each cuts an area in at most three. */
  hasRoomFor(numBlocks: number): boolean {
    return this.#numMappings + 2 * numBlocks <= this.#maxMappings;
  }

  /** Maps a page, unless it is there. */
  map(group: number, slot: number, block: number, page: number): void {
    const mapped = this.#mapped[group]!;
    const at = slot * this.#maxBlocks + block;
    if (mapped[at] === page) return;
    this.#numMappings -= border(mapped, at) + border(mapped, at + 1);
    mapped[at] = page;
    this.#numMappings += border(mapped, at) + border(mapped, at + 1);
    this.#mapOps[group]!.push(slot, block, page);
  }

  /** Triples (slot, block, page) since the last call. */
  takeMapOps(group: number): Int32Array {
    const ops = Int32Array.from(this.#mapOps[group]!);
    this.#mapOps[group]!.length = 0;
    return ops;
  }

  /** `users`: all sequences that go on in their range. */
  checkIntegrity(users: readonly RangeUser[]): void {
    let numMappings = this.#mapped[0]!.length > 0 ? this.#mapped.length : 0;
    for (const mapped of this.#mapped) for (let at = 1; at < mapped.length; at++) numMappings += border(mapped, at);
    invariant(numMappings === this.#numMappings, `${numMappings} mappings are counted as ${this.#numMappings}`);
    const taken = [...this.#idle, ...users.map(({ rangeSlot }) => rangeSlot)];
    invariant(new Set(taken).size === taken.length, 'a range has two owners');
    for (const { rangeSlot, lists } of users) {
      lists.forEach((list, group) => {
        for (let block = list.firstBlock; block < list.numMapped; block++) {
          const page = this.page(group, rangeSlot, block);
          invariant(page === list.pages[block], `range ${rangeSlot} maps page ${page} at block ${block}`);
        }
      });
    }
  }

  #numHits(idleIndex: number, wanted: WantedBlocks | undefined): number {
    if (!wanted) return 0;
    const start = this.#idle[idleIndex]! * this.#maxBlocks;
    let block = wanted.firstBlock;
    while (block < wanted.numBlocks && this.#mapped[0]![start + block] === wanted.pages[block]) block++;
    return block - wanted.firstBlock;
  }
}

function numWanted(wanted: WantedBlocks | undefined): number {
  return wanted ? wanted.numBlocks - wanted.firstBlock : 0;
}

/** 1 where the areas before and at `at` cannot be one. Slots lie side by side, so the rule holds across them. */
function border(mapped: Int32Array, at: number): number {
  if (at <= 0 || at >= mapped.length) return 0;
  const before = mapped[at - 1]!;
  const after = mapped[at]!;
  if (before < 0 || after < 0) return before === after ? 0 : 1;
  return after === before + 1 ? 0 : 1;
}
