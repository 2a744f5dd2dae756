import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Vocabulary } from './vocabulary.ts';

const word = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '😀', ' '), maxLength: 4 });

describe('Vocabulary', () => {
  it('finds what a map finds, whole, within a text and joined', () => {
    fc.assert(
      fc.property(fc.array(word, { maxLength: 30 }), fc.array(word, { maxLength: 10 }), (texts, probes) => {
        const includes = (id: number) => id % 7 !== 3;
        const vocabulary = new Vocabulary(texts, includes);
        const expected = new Map<string, number>();
        for (const [id, text] of texts.entries()) if (text !== '' && includes(id)) expected.set(text, id);
        const idOf = (text: string) => expected.get(text) ?? -1;
        for (const text of [...texts, ...probes]) {
          expect(vocabulary.find(text)).toBe(idOf(text));
          expect(vocabulary.find(`x${text}y`, 1, text.length + 1)).toBe(idOf(text));
        }
        for (const [left, leftText] of texts.entries()) {
          for (const [right, rightText] of texts.entries()) {
            const joined = leftText === '' || rightText === '' ? -1 : idOf(leftText + rightText);
            expect(vocabulary.findJoined(left, right)).toBe(joined);
          }
        }
        expect(new Set(vocabulary.ids())).toEqual(new Set(expected.values()));
        expect(vocabulary.findJoined(-1, 0)).toBe(-1);
      }),
    );
  });
});
