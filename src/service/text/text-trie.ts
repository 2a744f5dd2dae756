// Owns a set of strings with numbers, searched by what a text continues with.

interface Node {
  readonly next: Map<number, Node>;
  /** The number of the string that ends here, -1 if none does. */
  value: number;
}

const node = (): Node => ({ next: new Map(), value: -1 });

export class TextTrie {
  readonly #root = node();

  /** `value` is not negative; of equal strings the last one counts. */
  add(text: string, value: number): void {
    let at = this.#root;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      let next = at.next.get(unit);
      if (next === undefined) {
        next = node();
        at.next.set(unit, next);
      }
      at = next;
    }
    at.value = value;
  }

  /** Calls `found` for every string that `text` has at `start`, the shortest first. The empty string is never found. */
  search(text: string, start: number, found: (value: number, end: number) => void): void {
    let at: Node | undefined = this.#root;
    for (let i = start; i < text.length; i++) {
      at = at.next.get(text.charCodeAt(i));
      if (at === undefined) return;
      if (at.value !== -1) found(at.value, i + 1);
    }
  }

  /** Whether a string of the set starts at `start`, or one does as far as the text goes. */
  reaches(text: string, start: number): boolean {
    let at: Node | undefined = this.#root;
    for (let i = start; i < text.length; i++) {
      at = at.next.get(text.charCodeAt(i));
      if (at === undefined) return false;
      if (at.value !== -1) return true;
    }
    return true;
  }

  /** Whether `prefix` is how a string of the set starts. */
  hasPrefix(prefix: string): boolean {
    let at: Node | undefined = this.#root;
    for (let i = 0; i < prefix.length && at !== undefined; i++) at = at.next.get(prefix.charCodeAt(i));
    return at !== undefined;
  }
}
