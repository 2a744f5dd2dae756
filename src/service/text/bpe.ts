// Owns byte-pair merging: which neighbouring symbols become one, in order of rank, in time n log n.
import { invariant } from '../../common/errors.ts';
import type { Vocabulary } from './vocabulary.ts';

/**
 * Which pairs of token ids merge. `find` gives a slot, or -1 for a pair that never merges; the slot's rank (lower merges
 * first) and merged id are valid until the next `find`.
 */
export interface PairRules {
  readonly ranks: Int32Array;
  readonly merged: Int32Array;
  find(left: number, right: number): number;
}

const hash = (left: number, right: number) => (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 0;

/** Pairs listed in order of rank (a `merges` list), in an open-addressing table. */
export class ListedPairs implements PairRules {
  readonly ranks: Int32Array;
  readonly merged: Int32Array;
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  readonly #shift: number;

  /** `pairs`: left, right and merged id of each, in one row. Of equal pairs the first counts. */
  constructor(pairs: Int32Array) {
    const numPairs = pairs.length / 3;
    const bits = Math.max(4, Math.ceil(Math.log2(numPairs + 1)) + 1);
    this.#shift = 32 - bits;
    const size = 2 ** bits;
    this.#left = new Int32Array(size).fill(-1);
    this.#right = new Int32Array(size);
    this.ranks = new Int32Array(size);
    this.merged = new Int32Array(size);
    for (let rank = 0; rank < numPairs; rank++) {
      const left = pairs[3 * rank]!; // rank < numPairs
      const right = pairs[3 * rank + 1]!;
      const slot = this.#slot(left, right);
      if (this.#left[slot] !== -1) continue;
      this.#left[slot] = left;
      this.#right[slot] = right;
      this.ranks[slot] = rank;
      this.merged[slot] = pairs[3 * rank + 2]!;
    }
  }

  find(left: number, right: number): number {
    const slot = this.#slot(left, right);
    return this.#left[slot] === -1 ? -1 : slot;
  }

  /** The pair's slot, or the free one where it belongs; the table is at most half full. */
  #slot(left: number, right: number): number {
    const mask = this.#left.length - 1;
    let slot = Math.imul(hash(left, right), 0x9e3779b1) >>> this.#shift;
    while (this.#left[slot] !== -1 && (this.#left[slot] !== left || this.#right[slot] !== right)) {
      slot = (slot + 1) & mask;
    }
    return slot;
  }
}

/**
 * SentencePiece's rule: a pair merges if its text is a token; the token with the higher score first. Pairs are looked up
 * as they come, through a cache of fixed size: listing all pairs of a large vocabulary takes longer than most prompts.
 */
export class ScoredPairs implements PairRules {
  readonly ranks = new Int32Array(1 << 16);
  readonly merged = new Int32Array(1 << 16);
  readonly #left = new Int32Array(1 << 16).fill(-1);
  readonly #right = new Int32Array(1 << 16);
  readonly #vocabulary: Vocabulary;
  readonly #rankOf: Int32Array;

  /** `vocabulary` holds what may arise from merging; `scores` are by id, and equal ones leave the order to position. */
  constructor(vocabulary: Vocabulary, scores: ArrayLike<number>) {
    this.#vocabulary = vocabulary;
    this.#rankOf = new Int32Array(vocabulary.texts.length);
    const score = (id: number) => scores[id] ?? Number.NEGATIVE_INFINITY;
    const byScore = Int32Array.from(vocabulary.ids()).sort((a, b) => score(b) - score(a));
    let rank = 0;
    for (const [i, id] of byScore.entries()) {
      const before = byScore[i - 1];
      if (before !== undefined && score(before) !== score(id)) rank++;
      this.#rankOf[id] = rank;
    }
  }

  find(left: number, right: number): number {
    const slot = hash(left, right) >>> 16;
    if (this.#left[slot] !== left || this.#right[slot] !== right) {
      const id = this.#vocabulary.findJoined(left, right);
      this.#left[slot] = left;
      this.#right[slot] = right;
      this.merged[slot] = id;
      if (id !== -1) this.ranks[slot] = this.#rankOf[id]!; // ids of the vocabulary
    }
    return this.merged[slot] === -1 ? -1 : slot;
  }
}

/** Below this many symbols a plain search for the lowest rank is quicker than a heap. */
const maxPlainSymbols = 24;
/** Heap entries are rank * 2^31 + position, exact in a double. */
const positionSpan = 2 ** 31;
const noRank = 2 ** 31 - 1;

/** Holds scratch memory, so one instance serves one thread. */
export class PairMerger {
  readonly #rules: PairRules;
  #next = new Int32Array(64);
  #previous = new Int32Array(64);
  #heap = new Float64Array(64);
  #heapSize = 0;
  readonly #plainRanks = new Int32Array(maxPlainSymbols);

  constructor(rules: PairRules) {
    this.#rules = rules;
  }

  /** Merges ids[0..count) in place, always the pair of lowest rank and of those the leftmost; returns the new count. */
  merge(ids: Int32Array, count: number): number {
    invariant(count <= ids.length, 'symbols fit their buffer');
    return count <= maxPlainSymbols ? this.#mergePlain(ids, count) : this.#mergeByHeap(ids, count);
  }

  #rank(left: number, right: number): number {
    const slot = this.#rules.find(left, right);
    return slot === -1 ? noRank : this.#rules.ranks[slot]!; // find gives valid slots
  }

  #mergePlain(ids: Int32Array, count: number): number {
    const ranks = this.#plainRanks;
    for (let i = 0; i + 1 < count; i++) ranks[i] = this.#rank(ids[i]!, ids[i + 1]!); // i + 1 < count
    let n = count;
    while (n > 1) {
      let best = 0;
      for (let i = 1; i + 1 < n; i++) if (ranks[i]! < ranks[best]!) best = i; // i < n
      if (ranks[best] === noRank) break;
      ids[best] = this.#mergedOf(ids[best]!, ids[best + 1]!); // best + 1 < n
      ids.copyWithin(best + 1, best + 2, n);
      ranks.copyWithin(best + 1, best + 2, n - 1);
      n--;
      if (best + 1 < n) ranks[best] = this.#rank(ids[best]!, ids[best + 1]!);
      if (best > 0) ranks[best - 1] = this.#rank(ids[best - 1]!, ids[best]!);
    }
    return n;
  }

  #mergeByHeap(ids: Int32Array, count: number): number {
    this.#reserve(count);
    const next = this.#next;
    const previous = this.#previous;
    this.#heapSize = 0;
    for (let i = 0; i < count; i++) {
      next[i] = i + 1;
      previous[i] = i - 1;
      if (i + 1 < count) this.#add(ids, i, i + 1);
    }
    while (this.#heapSize > 0) {
      const entry = this.#pop();
      const at = entry % positionSpan;
      const after = next[at]!; // positions are below count
      // Stale entries: the symbol was merged away (-1), or its pair is another one by now.
      if (ids[at] === -1 || after >= count) continue;
      const rank = this.#rank(ids[at]!, ids[after]!);
      if (rank === noRank || rank !== (entry - at) / positionSpan) continue;
      ids[at] = this.#mergedOf(ids[at]!, ids[after]!);
      ids[after] = -1;
      const beyond = next[after]!;
      next[at] = beyond;
      if (beyond < count) {
        previous[beyond] = at;
        this.#add(ids, at, beyond);
      }
      const before = previous[at]!;
      if (before >= 0) this.#add(ids, before, at);
    }
    let n = 0;
    for (let i = 0; i < count; i = next[i]!) ids[n++] = ids[i]!; // n <= i < count
    return n;
  }

  #mergedOf(left: number, right: number): number {
    return this.#rules.merged[this.#rules.find(left, right)]!; // callers know that the pair merges
  }

  #add(ids: Int32Array, at: number, after: number): void {
    const rank = this.#rank(ids[at]!, ids[after]!); // both below count
    if (rank === noRank) return;
    if (this.#heapSize === this.#heap.length) this.#heap = grown(this.#heap, this.#heapSize + 1);
    const heap = this.#heap;
    const entry = rank * positionSpan + at;
    let hole = this.#heapSize++;
    while (hole > 0) {
      const parent = (hole - 1) >> 1;
      if (heap[parent]! <= entry) break; // parent < heapSize
      heap[hole] = heap[parent]!;
      hole = parent;
    }
    heap[hole] = entry;
  }

  #pop(): number {
    const heap = this.#heap;
    const top = heap[0]!; // callers check that the heap is not empty
    const last = heap[--this.#heapSize]!;
    const size = this.#heapSize;
    let hole = 0;
    for (;;) {
      let child = 2 * hole + 1;
      if (child >= size) break;
      if (child + 1 < size && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= last) break;
      heap[hole] = heap[child]!;
      hole = child;
    }
    heap[hole] = last;
    return top;
  }

  #reserve(count: number): void {
    if (this.#next.length >= count) return;
    this.#next = new Int32Array(count * 2);
    this.#previous = new Int32Array(count * 2);
    this.#heap = new Float64Array(count * 2);
  }
}

function grown(old: Float64Array<ArrayBuffer>, needed: number): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(Math.max(needed, old.length * 2));
  larger.set(old);
  return larger;
}
