import { describe, expect, it } from 'vitest';
import { compilePreTokenizer, splitStage } from './pre-tokenizer.ts';
import type { StageSpec } from './tokenizer-spec.ts';

function pieces(spec: StageSpec | null, text: string, isFirst = true): string[] {
  const list: string[] = [];
  compilePreTokenizer(spec)(text, isFirst, (piece) => list.push(piece));
  return list;
}

const metaspace = (more: object): StageSpec => ({ type: 'Metaspace', ...more });

describe('compilePreTokenizer', () => {
  // Source of the expectations: `SplitDelimiterBehavior` in the documentation of Hugging Face's tokenizers.
  it.each([
    ['Isolated', ['the', '-', 'final', '-', '-', 'countdown']],
    ['Removed', ['the', 'final', 'countdown']],
    ['MergedWithPrevious', ['the-', 'final-', '-', 'countdown']],
    ['MergedWithNext', ['the', '-final', '-', '-countdown']],
    ['Contiguous', ['the', '-', 'final', '--', 'countdown']],
  ] as const)('splits %s', (behavior, expected) => {
    expect(pieces(splitStage('-', behavior), 'the-final--countdown')).toEqual(expected);
    expect(
      pieces({ type: 'Split', pattern: { String: '-' }, behavior, invert: false }, 'the-final--countdown'),
    ).toEqual(expected);
  });

  it('splits inverted, at empty matches not at all, and nothing into nothing', () => {
    expect(pieces({ ...splitStage('[a-z]+', 'Removed'), invert: true }, 'ab-1-cd')).toEqual(['ab', 'cd']);
    expect(pieces(splitStage('x*'), 'axxb')).toEqual(['a', 'xx', 'b']);
    expect(pieces(splitStage('x*'), '😀x😀')).toEqual(['😀', 'x', '😀']);
    expect(pieces(splitStage('a'), '')).toEqual([]);
    expect(pieces(null, '')).toEqual([]);
  });

  it('runs stages one after the other, digits by Unicode, GPT-2 by ByteLevel', () => {
    const sequence = {
      type: 'Sequence',
      pretokenizers: [{ type: 'Digits', individual_digits: true }, { type: 'ByteLevel' }],
    };
    expect(pieces(sequence, "a  b 12½'s")).toEqual(['a', ' ', ' b', ' ', '1', '2', '½', "'s"]);
    expect(pieces({ type: 'Sequence', pretokenizers: [] }, 'a b')).toEqual(['a b']);
    expect(pieces({ type: 'ByteLevel', add_prefix_space: true, use_regex: false }, 'a b')).toEqual([' a b']);
    expect(pieces({ type: 'Punctuation' }, 'a,b!!')).toEqual(['a', ',', 'b', '!', '!']);
    expect(pieces({ type: 'WhitespaceSplit' }, ' a  b ')).toEqual(['a', 'b']);
  });

  it('marks words as SentencePiece does', () => {
    expect(pieces(metaspace({}), 'a  b')).toEqual(['▁a', '▁', '▁b']);
    expect(pieces(metaspace({ prepend_scheme: 'first' }), 'a b')).toEqual(['▁a', '▁b']);
    expect(pieces(metaspace({ prepend_scheme: 'first' }), 'a b', false)).toEqual(['a', '▁b']);
    expect(pieces(metaspace({ add_prefix_space: false, split: false }), 'a b')).toEqual(['a▁b']);
  });

  it('refuses what it does not know', () => {
    expect(() => compilePreTokenizer({ type: 'Surprise' })).toThrow(/"Surprise" is unknown/);
    expect(() => compilePreTokenizer({ ...splitStage('a'), behavior: 'Sideways' })).toThrow(/Sideways/);
    expect(() => compilePreTokenizer(splitStage('('))).toThrow(expect.objectContaining({ code: 'model_unsupported' }));
  });

  it('splits trailing white space in linear time', () => {
    expect(pieces(splitStage(String.raw`\s+$`), `${' '.repeat(200_000)}x  `)).toHaveLength(2);
  });
});
