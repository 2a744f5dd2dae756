import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeTokens, IncrementalDecoder } from './stream-decoder.ts';
import { lossyUtf8, TokenTable, TokenTableBuilder } from './token-table.ts';

const utf8 = (text: string) => new TextEncoder().encode(text);
interface TestToken {
  readonly bytes: Uint8Array;
  readonly special: boolean;
}

function table(tokens: readonly TestToken[], addsFirstSpace = false): TokenTable {
  const builder = new TokenTableBuilder();
  for (const { bytes, special } of tokens) builder.add(bytes, special);
  return new TokenTable(builder.share(addsFirstSpace));
}

const plain = (bytes: Uint8Array): TestToken => ({ bytes, special: false });

/** Bytes that are often the parts of characters, often in the wrong place. */
const byte = fc.oneof(
  fc.constantFrom(0x00, 0x20, 0x41, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf),
  fc.constantFrom(0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff, 0xbb),
  fc.nat(255),
);
const bytes = fc.array(byte, { maxLength: 6 }).map((b) => Uint8Array.from(b));
const numRuns = process.env.XLLM_TEST_FULL ? 20_000 : 1_000;

describe('IncrementalDecoder', () => {
  it('gives, in pieces, the lossy text of all bytes', () => {
    fc.assert(
      fc.property(fc.array(bytes, { maxLength: 12 }), (parts) => {
        const tokens = table(parts.map(plain));
        const decoder = new IncrementalDecoder(tokens);
        let text = '';
        for (let id = 0; id < parts.length; id++) text += decoder.push(id);
        text += decoder.flush();
        const whole = Uint8Array.from(parts.flatMap((part) => [...part]));
        expect(text).toBe(lossyUtf8(whole));
        expect(decodeTokens(tokens, Int32Array.from(parts.keys()), {})).toBe(text);
      }),
      { numRuns },
    );
  });

  it('emits no U+FFFD while the bytes are those of a text, and holds back less than a character', () => {
    const cut = fc.tuple(fc.string({ unit: 'grapheme' }), fc.array(fc.nat(4), { minLength: 40, maxLength: 40 }));
    fc.assert(
      fc.property(cut, ([text, lengths]) => {
        const all = utf8(text.toWellFormed());
        const parts: Uint8Array[] = [];
        for (let at = 0, i = 0; at < all.length; i++) {
          const length = (lengths[i % 40] ?? 0) + (i % 40 === 0 ? 1 : 0);
          parts.push(all.slice(at, at + length));
          at += length;
        }
        const decoder = new IncrementalDecoder(table(parts.map(plain)));
        let sent = '';
        let numBytes = 0;
        for (const [id, part] of parts.entries()) {
          sent += decoder.push(id);
          numBytes += part.length;
          expect(numBytes - utf8(sent).length).toBeLessThan(4);
        }
        expect(sent).toBe(text.toWellFormed());
        expect(decoder.flush()).toBe('');
      }),
      { numRuns },
    );
  });

  it('keeps a byte order mark, skips special tokens inside a character, ignores ids without a token', () => {
    const tokens = table([
      plain(utf8('\ufeffx')),
      plain(Uint8Array.of(0xe2, 0x82)),
      { bytes: utf8('<end>'), special: true },
      plain(Uint8Array.of(0xac)),
    ]);
    const decode = (skipSpecialTokens: boolean) =>
      decodeTokens(tokens, Int32Array.of(0, 1, 2, 99, 3), { skipSpecialTokens });
    expect(decode(true)).toBe('\ufeffx€');
    expect(decode(false)).toBe('\ufeffx\ufffd<end>\ufffd');
  });

  it('drops the first space of a SentencePiece text only where a text starts', () => {
    const tokens = table([plain(utf8(' Hi')), plain(utf8(' you')), { bytes: utf8('<s>'), special: true }], true);
    const ids = Int32Array.of(2, 0, 1);
    expect(decodeTokens(tokens, ids, {})).toBe('Hi you');
    expect(decodeTokens(tokens, ids, { skipSpecialTokens: false })).toBe('<s> Hi you');
    expect(decodeTokens(tokens, ids, { atTextStart: false })).toBe(' Hi you');
    const decoder = new IncrementalDecoder(tokens);
    expect(decoder.push(1)).toBe(' you');
  });
});
