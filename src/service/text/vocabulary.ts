// Owns finding tokens by their text, and by the texts of two tokens joined, without making strings.

/** Hashes are polynomials in this, so that a joined text's hash follows from its parts'. */
const base = 31;

export class Vocabulary {
  /** By id; '' where there is no token. */
  readonly texts: readonly string[];
  /** By id. */
  readonly #hashes: Int32Array;
  /** Open addressing: ids, -1 where free. At most half full. */
  readonly #slots: Int32Array;
  readonly #mask: number;
  /** base to the power of each length of a token. */
  readonly #powers: Int32Array;

  /** Holds the tokens for which `includes` is true. Of equal texts the last one counts. */
  constructor(texts: readonly string[], includes: (id: number) => boolean) {
    this.texts = texts;
    this.#hashes = new Int32Array(texts.length);
    this.#slots = new Int32Array(2 ** Math.ceil(Math.log2(2 * texts.length + 2))).fill(-1);
    this.#mask = this.#slots.length - 1;
    let maxLength = 0;
    for (let id = 0; id < texts.length; id++) {
      const text = texts[id]!; // id < length
      const hash = hashOf(text, 0, text.length);
      this.#hashes[id] = hash;
      maxLength = Math.max(maxLength, text.length);
      if (text === '' || !includes(id)) continue;
      let slot = spread(hash) & this.#mask;
      while (this.#slots[slot] !== -1 && texts[this.#slots[slot]!] !== text) slot = (slot + 1) & this.#mask;
      this.#slots[slot] = id;
    }
    this.#powers = new Int32Array(maxLength + 1).fill(1);
    for (let n = 1; n <= maxLength; n++) this.#powers[n] = Math.imul(this.#powers[n - 1]!, base); // n >= 1
  }

  /** Ids of the tokens held, each once. */
  *ids(): Generator<number> {
    for (const id of this.#slots) if (id !== -1) yield id;
  }

  /** The id of the token that is text[start, end), else -1. */
  find(text: string, start = 0, end = text.length): number {
    const length = end - start;
    let slot = spread(hashOf(text, start, end)) & this.#mask;
    for (let id = this.#slots[slot]!; id !== -1; id = this.#slots[slot]!) {
      const token = this.texts[id]!; // slots hold ids
      if (token.length === length && text.startsWith(token, start)) return id;
      slot = (slot + 1) & this.#mask;
    }
    return -1;
  }

  /** The id of the token whose text is that of `left`, then that of `right`, else -1. */
  findJoined(left: number, right: number): number {
    const leftText = this.texts[left];
    const rightText = this.texts[right];
    if (!leftText || !rightText) return -1;
    const length = leftText.length + rightText.length;
    if (length >= this.#powers.length) return -1;
    // left and right are ids here; so is what the slots hold.
    const hash = (Math.imul(this.#hashes[left]!, this.#powers[rightText.length]!) + this.#hashes[right]!) | 0;
    let slot = spread(hash) & this.#mask;
    for (let id = this.#slots[slot]!; id !== -1; id = this.#slots[slot]!) {
      const token = this.texts[id]!;
      if (token.length === length && token.startsWith(leftText) && token.endsWith(rightText)) return id;
      slot = (slot + 1) & this.#mask;
    }
    return -1;
  }
}

function hashOf(text: string, start: number, end: number): number {
  let hash = 0;
  for (let i = start; i < end; i++) hash = (Math.imul(hash, base) + text.charCodeAt(i)) | 0;
  return hash;
}

/** Spreads neighbouring hashes over the table. */
const spread = (hash: number) => {
  const mixed = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b);
  return mixed ^ (mixed >>> 13);
};
