// Owns which graphs are kept: the most recently used ones, up to a number.

export class GraphCache<G extends { free(): void }> {
  /** Insertion order is order of use. */
  readonly #graphs = new Map<string, G>();
  readonly #capacity: number;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get size(): number {
    return this.#graphs.size;
  }

  /** The graph of that key, now the most recently used. */
  get(key: string): G | undefined {
    const graph = this.#graphs.get(key);
    if (graph && this.#graphs.size > 1) {
      this.#graphs.delete(key);
      this.#graphs.set(key, graph);
    }
    return graph;
  }

  /** Frees the least recently used graph where there is no room. */
  set(key: string, graph: G): void {
    this.#graphs.set(key, graph);
    if (this.#graphs.size <= this.#capacity) return;
    for (const [oldKey, old] of this.#graphs) {
      this.#graphs.delete(oldKey);
      old.free();
      return;
    }
  }

  clear(): void {
    for (const graph of this.#graphs.values()) graph.free();
    this.#graphs.clear();
  }
}
