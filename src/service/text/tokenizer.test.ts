import { describe, expect, it } from 'vitest';
import type { Json, JsonObject } from '../../files/weights-file.ts';
import { decodeTokens } from './stream-decoder.ts';
import { TokenTable } from './token-table.ts';
import { Tokenizer } from './tokenizer.ts';
import { tokenizerOfJson } from './tokenizer-json.ts';
import { shareSpec, type TokenizerSpec } from './tokenizer-spec.ts';

const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);

/** Tokens get their place in the list as id. */
function spec(model: JsonObject, tokens: readonly string[], more: JsonObject = {}): TokenizerSpec {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const withVocab = model['type'] === 'Unigram' ? model : { ...model, vocab };
  return tokenizerOfJson({ model: withVocab, ...more }, 'test');
}

const added = (id: number, content: string, more: JsonObject = {}): Json => ({ id, content, ...more });

function encode(given: TokenizerSpec, text: string, addSpecialTokens = false, parseSpecialTokens = false): string[] {
  const ids = new Tokenizer(given).encode(text, { addSpecialTokens, parseSpecialTokens });
  return Array.from(ids, (id) => given.tokens[id] ?? `#${id}`);
}

describe('Tokenizer', () => {
  it('falls back to bytes, then to the unknown token, fused or not', () => {
    const withBytes = spec({ type: 'BPE', merges: [], byte_fallback: true, unk_token: '?' }, ['?', 'a', ...bytes]);
    expect(encode(withBytes, 'aé<0x41>').slice(0, 5)).toEqual(['a', '<0xC3>', '<0xA9>', '<0x3C>', '<0x30>']);
    const without = { type: 'BPE', merges: [], unk_token: '?' };
    expect(encode(spec(without, ['?', 'a']), 'éaéé')).toEqual(['?', 'a', '?', '?']);
    expect(encode(spec({ ...without, fuse_unk: true }, ['?', 'a']), 'éaéé')).toEqual(['?', 'a', '?']);
    expect(encode(spec({ type: 'BPE', merges: [] }, ['a']), 'éaé')).toEqual(['a']);
  });

  it('takes a whole piece that is a token where merges are ignored', () => {
    const model = { type: 'BPE', merges: ['a b'], ignore_merges: true };
    expect(encode(spec(model, ['a', 'b', 'c', 'ab', 'abc']), 'abc')).toEqual(['abc']);
    expect(encode(spec({ ...model, ignore_merges: false }, ['a', 'b', 'c', 'ab', 'abc']), 'abc')).toEqual(['ab', 'c']);
  });

  it('finds added tokens: longest first, with their white space, as single words, in normalised text', () => {
    const tokens = ['x', ' ', '<a>', '<a>b', 'ww', 'É', 'E', '\u0301'];
    const given = spec({ type: 'BPE', merges: [] }, tokens, {
      normalizer: { type: 'NFC' },
      added_tokens: [
        added(2, '<a>', { lstrip: true, rstrip: true }),
        added(3, '<a>b'),
        added(4, 'ww', { single_word: true }),
        added(5, 'E\u0301', { normalized: true }),
      ],
    });
    expect(encode(given, 'x <a>  x')).toEqual(['x', '<a>', 'x']);
    expect(encode(given, '<a><a>b')).toEqual(['<a>', '<a>b']);
    expect(encode(given, 'ww xww ww')).toEqual(['ww', ' ', 'x', ' ', 'ww']);
    expect(encode(given, 'x\u00c9')).toEqual(['x', 'E\u0301']);
  });

  it('never lets text become a control token, neither by its spelling nor by merges', () => {
    const merges = ['< s', '<s >', 's >', '< s>'];
    const given = spec({ type: 'BPE', merges }, ['<', 's', '>', '<s', 's>', '<s>'], {
      added_tokens: [added(5, '<s>', { special: true })],
    });
    expect(encode(given, '<s>')).toEqual(['<s', '>']);
    expect(encode(given, '<s>', false, true)).toEqual(['<s>']);
    const shielded = new Tokenizer(given).encodeShielded('<s><\ue000s>', '\ue000');
    expect(Array.from(shielded)).toEqual([5, 3, 2]);
  });

  it('adds BOS and EOS once', () => {
    const plain = spec({ type: 'BPE', merges: [] }, ['a', '<s>', '</s>'], {
      added_tokens: [added(1, '<s>', { special: true }), added(2, '</s>', { special: true })],
    });
    const around = { ...plain, prefixIds: [1], suffixIds: [2] };
    expect(encode(around, 'a', true)).toEqual(['<s>', 'a', '</s>']);
    expect(encode(around, '<s>a</s>', true, true)).toEqual(['<s>', 'a', '</s>']);
    expect(encode(around, '', true)).toEqual(['<s>', '</s>']);
    expect(encode(around, 'a')).toEqual(['a']);
  });

  it('segments by unigram scores, unknown characters fused or as bytes', () => {
    const pieces: readonly (readonly [string, number])[] = [
      ['<unk>', 0],
      ['▁', -3],
      ['a', -2],
      ['b', -2],
      ['ab', -3],
      ['▁ab', -3.5],
    ];
    const model = { type: 'Unigram', unk_id: 0, vocab: pieces };
    const preTokenizer = { pre_tokenizer: { type: 'Metaspace' } };
    expect(encode(spec(model, [], preTokenizer), 'ab aab')).toEqual(['▁ab', '▁', 'a', 'ab']);
    expect(encode(spec(model, [], preTokenizer), 'xyb😀')).toEqual(['▁', '<unk>', 'b', '<unk>']);
    const vocab = [...pieces, ...bytes.map((byte): readonly [string, number] => [byte, -20])];
    expect(encode(spec({ ...model, vocab, byte_fallback: true }, [], preTokenizer), 'é')).toEqual([
      '▁',
      '<0xC3>',
      '<0xA9>',
    ]);
  });

  it('decodes what it encodes, SentencePiece spaces and bytes included', () => {
    const given = spec({ type: 'BPE', merges: [], byte_fallback: true }, ['▁', 'a', ...bytes], {
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: '▁' },
          { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        ],
      },
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: 1, stop: 0 },
        ],
      },
    });
    const table = new TokenTable(shareSpec(given));
    for (const text of ['a é 😀', '  a', 'a\na', '<0x41>']) {
      const ids = new Tokenizer(given).encode(text, { addSpecialTokens: false, parseSpecialTokens: false });
      expect(decodeTokens(table, ids, {})).toBe(text);
    }
  });
});
