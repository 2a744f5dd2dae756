// Alternatives through block maxima against a plain sort.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { sane } from './math.ref.ts';
import { rawStats } from './sample.ref.ts';
import { blockMaximaOf, topLogprobs } from './top-logprobs.ts';

const value = fc.oneof(
  fc.constantFrom(0, -0, 1, 2, -Infinity, Infinity, Number.NaN),
  fc.float({ min: -20, max: 20, noNaN: true }),
);

test('the best tokens, ties by lowest id', () => {
  fc.assert(
    fc.property(
      fc.array(value, { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 1, max: 2000 }),
      fc.nat(30),
      fc.nat(20),
      (pattern, numIds, numMasked, k) => {
        const logits = Float32Array.from(
          { length: numIds + numMasked },
          (_, i) => pattern[Math.imul(i, 7919) % pattern.length]!,
        );
        const { logSumExp } = rawStats(logits, numIds, 0);
        const blockMaxima = blockMaximaOf(logits, numIds);
        const top = topLogprobs({ logits, numIds, blockMaxima, logSumExp }, k, 3);
        const sorted = Array.from({ length: numIds }, (_, id) => id)
          .sort((a, b) => compare(sane(logits[b]!), sane(logits[a]!)) || a - b)
          .slice(0, k);
        expect([...top.ids]).toEqual(sorted);
        const logprobs = sorted.map((id) =>
          sane(logits[id]!) === -Infinity ? -Infinity : sane(logits[id]!) - logSumExp,
        );
        expect(top.logprobs).toEqual(Float32Array.from(logprobs));
        expect(top.rank).toBe(3);
      },
    ),
    { numRuns: process.env['XLLM_TEST_FULL'] ? 3000 : 200, seed: 5 },
  );
});

const compare = (a: number, b: number) => (a > b ? 1 : a < b ? -1 : 0);
