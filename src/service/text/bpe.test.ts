import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mergePairs } from './bpe.ref.ts';
import { ListedPairs, PairMerger, type PairRules, ScoredPairs } from './bpe.ts';
import { Vocabulary } from './vocabulary.ts';

const numRuns = process.env.XLLM_TEST_FULL ? 5_000 : 300;
const symbols = fc.oneof(
  fc.array(fc.nat(3), { maxLength: 20 }),
  fc.array(fc.nat(3), { minLength: 25, maxLength: 120 }),
  fc.tuple(fc.nat(3), fc.integer({ min: 25, max: 120 })).map(([id, n]) => Array.from({ length: n }, () => id)),
);

function expectSame(rules: PairRules, input: readonly number[]): void {
  const ids = Int32Array.from(input);
  const count = new PairMerger(rules).merge(ids, ids.length);
  expect([...ids.subarray(0, count)]).toEqual(mergePairs(input, rules));
}

describe('PairMerger', () => {
  it('equals the plain loops for random merge lists', () => {
    // Every merge makes a new id, from ids made before it.
    const merges = fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 20 }).map((draws) => {
      const seen = new Map<string, readonly [number, number, number]>();
      for (const [a, b] of draws) {
        const id = 4 + seen.size;
        const pair = [a % id, b % id] as const;
        if (!seen.has(pair.join())) seen.set(pair.join(), [...pair, id]);
      }
      return [...seen.values()];
    });
    fc.assert(
      fc.property(merges, symbols, (list, input) => expectSame(new ListedPairs(Int32Array.from(list.flat())), input)),
      { numRuns },
    );
  });

  it('equals the plain loops for random scores, equal ones too', () => {
    const vocabulary = fc.uniqueArray(
      fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'd'), minLength: 2, maxLength: 5 }),
      {
        maxLength: 20,
      },
    );
    const scores = fc.array(fc.nat(5), { minLength: 24, maxLength: 24 });
    fc.assert(
      fc.property(vocabulary, scores, symbols, (words, values, input) => {
        const texts = ['a', 'b', 'c', 'd', ...words];
        expectSame(new ScoredPairs(new Vocabulary(texts, () => true), values), input);
      }),
      { numRuns },
    );
  });

  it('keeps the first of equal pairs and survives an empty list', () => {
    const twice = new ListedPairs(Int32Array.of(0, 1, 2, 0, 1, 3));
    expectSame(twice, [0, 1]);
    expect(twice.merged[twice.find(0, 1)]).toBe(2);
    expectSame(new ListedPairs(new Int32Array(0)), [1, 2, 3]);
  });
});
