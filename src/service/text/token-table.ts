// Owns the table of what each token id stands for, in shared memory: written by a worker, read on the event loop.
import { invariant } from '../../common/errors.ts';
import { byteOfChar } from './byte-alphabet.ts';

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

const encoder = new TextEncoder();

/** Collects tokens in order of id. */
export class TokenTableBuilder {
  readonly #offsets: number[] = [0];
  readonly #special: number[] = [];
  #bytes = new Uint8Array(1 << 16);
  #numBytes = 0;

  /** `special`: a control token, left out where special tokens are skipped. */
  add(bytes: ArrayLike<number>, special = false): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#numBytes);
    this.#end(bytes.length, special);
  }

  addText(text: string, special = false): void {
    this.#reserve(3 * text.length);
    this.#end(encoder.encodeInto(text, this.#bytes.subarray(this.#numBytes)).written, special);
  }

  /** A token spelled in GPT-2's byte alphabet; as it stands if a character is not of that. */
  addSpelled(token: string): void {
    this.#reserve(token.length);
    for (let i = 0; i < token.length; i++) {
      const byte = byteOfChar(token.charCodeAt(i));
      if (byte === -1) {
        this.addText(token);
        return;
      }
      this.#bytes[this.#numBytes + i] = byte;
    }
    this.#end(token.length, false);
  }

  share(addsFirstSpace: boolean): SharedTokenTable {
    const offsets = new Uint32Array(new SharedArrayBuffer(4 * this.#offsets.length));
    offsets.set(this.#offsets);
    const bytes = new Uint8Array(new SharedArrayBuffer(this.#numBytes));
    bytes.set(this.#bytes.subarray(0, this.#numBytes));
    const special = new Uint8Array(new SharedArrayBuffer(this.#special.length));
    special.set(this.#special);
    return { offsets: offsets.buffer, bytes: bytes.buffer, special: special.buffer, addsFirstSpace };
  }

  #end(numBytes: number, special: boolean): void {
    this.#numBytes += numBytes;
    this.#offsets.push(this.#numBytes);
    this.#special.push(special ? 1 : 0);
  }

  #reserve(numMore: number): void {
    const needed = this.#numBytes + numMore;
    if (needed <= this.#bytes.length) return;
    const larger = new Uint8Array(2 * needed);
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
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
