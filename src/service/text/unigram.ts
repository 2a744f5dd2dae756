// Owns SentencePiece's unigram segmentation: the way through a text with the highest sum of scores.
import { TextTrie } from './text-trie.ts';
import type { Vocabulary } from './vocabulary.ts';

/** SentencePiece's penalty below the lowest score for a character without a token. Source: unigram_model.cc. */
const unknownPenalty = 10;

export class Unigram {
  readonly #trie = new TextTrie();
  readonly #scores: ArrayLike<number>;
  readonly #unknownScore: number;

  /** `vocabulary` holds what may be used; `scores` are by id. */
  constructor(vocabulary: Vocabulary, scores: ArrayLike<number>) {
    this.#scores = scores;
    let lowest = 0;
    for (const id of vocabulary.ids()) {
      this.#trie.add(vocabulary.texts[id] ?? '', id);
      lowest = Math.min(lowest, scores[id] ?? 0);
    }
    this.#unknownScore = lowest - unknownPenalty;
  }

  /** Calls `emit` for each part in order: `id` -1 is a character without a token. */
  segment(text: string, emit: (id: number, start: number, end: number) => void): void {
    const numPositions = text.length + 1;
    const best = new Float64Array(numPositions).fill(Number.NEGATIVE_INFINITY);
    const from = new Int32Array(numPositions).fill(-1);
    const idAt = new Int32Array(numPositions);
    best[0] = 0;
    for (let at = 0; at < text.length; ) {
      const soFar = best[at]!; // at < length
      const reach = (id: number, end: number, score: number) => {
        if (soFar + score > best[end]!) {
          best[end] = soFar + score;
          from[end] = at;
          idAt[end] = id;
        }
      };
      const next = at + (text.codePointAt(at)! > 0xffff ? 2 : 1); // at < length
      let hasSingle = false;
      this.#trie.search(text, at, (id, end) => {
        reach(id, end, this.#scores[id] ?? this.#unknownScore);
        if (end === next) hasSingle = true;
      });
      if (!hasSingle) reach(-1, next, this.#unknownScore);
      at = next;
    }
    const ends: number[] = [];
    for (let end = text.length; end > 0; end = from[end]!) ends.push(end); // every position has a way to it
    for (let i = ends.length - 1; i >= 0; i--) {
      const end = ends[i]!; // i < length
      emit(idAt[end]!, from[end]!, end);
    }
  }
}
