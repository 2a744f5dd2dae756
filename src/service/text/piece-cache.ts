// Owns the memory of pieces already encoded: text repeats its words, and a hostile text must not grow it.

const maxEntries = 1 << 15;

/** Two generations: when the younger is full it becomes the older one, whose entries then go. */
export class PieceCache {
  #young = new Map<string, number[]>();
  #old = new Map<string, number[]>();

  get(piece: string): readonly number[] | undefined {
    const ids = this.#young.get(piece);
    if (ids !== undefined) return ids;
    const older = this.#old.get(piece);
    if (older !== undefined) this.set(piece, older);
    return older;
  }

  set(piece: string, ids: number[]): void {
    if (this.#young.size >= maxEntries) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(piece, ids);
  }
}
