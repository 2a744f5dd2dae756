// Owns incremental detokenising: bytes of tokens in, whole characters out.
import type { DecodeOptions, StreamDecoder } from './text-service.ts';
import { lossyUtf8, type TokenTable } from './token-table.ts';

/**
 * Holds back at most three bytes: the start of a character that later tokens may complete. All text together equals the
 * lossy UTF-8 text of all bytes together.
 */
export class IncrementalDecoder implements StreamDecoder {
  readonly #table: TokenTable;
  readonly #skipSpecial: boolean;
  #dropSpace: boolean;
  #pending: Uint8Array = new Uint8Array(0);

  constructor(table: TokenTable, { skipSpecialTokens = true, atTextStart = false }: DecodeOptions = {}) {
    this.#table = table;
    this.#skipSpecial = skipSpecialTokens;
    this.#dropSpace = atTextStart && table.addsFirstSpace;
  }

  push(tokenId: number): string {
    if (this.#skipSpecial && this.#table.isSpecial(tokenId)) return '';
    if (this.#pending.length === 0 && !this.#dropSpace) {
      const text = this.#table.text(tokenId);
      if (text !== null) return text;
    }
    let bytes = this.#table.bytes(tokenId);
    if (bytes.length === 0) return '';
    if (this.#dropSpace && bytes[0] === 0x20) bytes = bytes.subarray(1);
    this.#dropSpace = false;
    if (this.#pending.length > 0) bytes = concat(this.#pending, bytes);
    const numWhole = bytes.length - numIncomplete(bytes);
    this.#pending = bytes.subarray(numWhole);
    return lossyUtf8(bytes.subarray(0, numWhole));
  }

  flush(): string {
    const rest = lossyUtf8(this.#pending);
    this.#pending = new Uint8Array(0);
    return rest;
  }
}

/** Text of a whole token sequence. */
export function decodeTokens(table: TokenTable, ids: Int32Array, options: DecodeOptions): string {
  const decoder = new IncrementalDecoder(table, { atTextStart: true, ...options });
  let text = '';
  for (const id of ids) text += decoder.push(id);
  return text + decoder.flush();
}

/**
 * How many bytes at the end (0 to 3) are the start of a character that more bytes could complete. Cutting before them
 * changes no text: a UTF-8 decoder starts afresh at a lead byte. Ranges: the Unicode Standard, table 3-7.
 */
function numIncomplete(bytes: Uint8Array): number {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const lead = bytes[bytes.length - back]!; // back <= length
    if (lead >= 0x80 && lead < 0xc0) continue;
    const needed = lead >= 0xf0 && lead <= 0xf4 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
    if (lead > 0xf4 || needed <= back) return 0;
    if (back === 1) return 1;
    const second = bytes[bytes.length - back + 1]!; // back >= 2
    const legal =
      lead === 0xe0
        ? second >= 0xa0
        : lead === 0xed
          ? second < 0xa0
          : lead === 0xf0
            ? second >= 0x90
            : lead === 0xf4
              ? second < 0x90
              : true;
    return legal ? back : 0;
  }
  return 0;
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}
