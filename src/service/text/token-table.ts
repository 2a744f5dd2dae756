// Owns the table of what each token id stands for, in shared memory: written by a worker, read on the event loop.
import { invariant } from '../../common/errors.ts';

/** One token as the table stores it. `special`: a control token, left out where special tokens are skipped. */
export interface TokenBytes {
  readonly bytes: Uint8Array;
  readonly special: boolean;
}

/** What travels between threads. */
export interface SharedTokenTable {
  /** Uint32 [numTokens + 1]: where each token's bytes start; the last one is where they all end. */
  readonly offsets: SharedArrayBuffer;
  readonly bytes: SharedArrayBuffer;
  /** Uint8 [numTokens]: 1 for special tokens. */
  readonly special: SharedArrayBuffer;
  /** Whether the first space of a text is the tokenizer's own addition (SentencePiece) and not part of the text. */
  readonly addsFirstSpace: boolean;
}

/** Copies tokens, listed by id, into shared memory. */
export function shareTokens(tokens: readonly TokenBytes[], addsFirstSpace: boolean): SharedTokenTable {
  const offsets = new Uint32Array(new SharedArrayBuffer(4 * (tokens.length + 1)));
  for (const [id, token] of tokens.entries()) offsets[id + 1] = offsets[id]! + token.bytes.length; // id < length
  const bytes = new Uint8Array(new SharedArrayBuffer(offsets[tokens.length]!)); // the last of length + 1
  const special = new Uint8Array(new SharedArrayBuffer(tokens.length));
  for (const [id, token] of tokens.entries()) {
    bytes.set(token.bytes, offsets[id]);
    special[id] = token.special ? 1 : 0;
  }
  return { offsets: offsets.buffer, bytes: bytes.buffer, special: special.buffer, addsFirstSpace };
}

// A leading U+FEFF is text like any other here.
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

/** Text of UTF-8 bytes; each maximal invalid part becomes one U+FFFD. */
export function lossyUtf8(bytes: Uint8Array): string {
  return utf8.decode(bytes);
}

const strictUtf8 = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });

/** Ids past the table's end (padded vocabularies) stand for nothing. */
export class TokenTable {
  readonly numTokens: number;
  readonly addsFirstSpace: boolean;
  readonly #offsets: Uint32Array;
  readonly #bytes: Uint8Array;
  readonly #special: Uint8Array;
  /** Per id: its text, null if its bytes alone are no text; filled as needed. */
  readonly #texts: (string | null | undefined)[];

  constructor(shared: SharedTokenTable) {
    this.#offsets = new Uint32Array(shared.offsets);
    // TextDecoder refuses shared memory, so the bytes are copied once per thread.
    this.#bytes = new Uint8Array(shared.bytes).slice();
    this.#special = new Uint8Array(shared.special);
    this.addsFirstSpace = shared.addsFirstSpace;
    this.numTokens = this.#special.length;
    this.#texts = Array.from({ length: this.numTokens });
    invariant(this.#offsets.length === this.numTokens + 1, 'a token table has one offset more than tokens');
  }

  isSpecial(id: number): boolean {
    return this.#special[id] === 1;
  }

  bytes(id: number): Uint8Array {
    const start = this.#offsets[id];
    const end = this.#offsets[id + 1];
    return start === undefined || end === undefined ? new Uint8Array(0) : this.#bytes.subarray(start, end);
  }

  /** Text of one token; null where its bytes are only part of a character. */
  text(id: number): string | null {
    let text = this.#texts[id];
    if (text === undefined) {
      try {
        text = strictUtf8.decode(this.bytes(id));
      } catch (error) {
        if (!(error instanceof TypeError)) throw error;
        text = null;
      }
      if (id < this.numTokens) this.#texts[id] = text;
    }
    return text;
  }
}
