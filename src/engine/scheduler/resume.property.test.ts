// A sequence that goes on after what an earlier attempt generated ends as it would have without a break.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createEditsBuilder } from '../sampler/edits.ts';
import type { SequenceSpec } from './spec.ts';
import { defaultParams, makeSpec, type Outcome, TestEngine } from './testing/harness.ts';

const specs = fc
  .record({
    prompt: fc.array(fc.integer({ min: 0, max: 39 }), { minLength: 1, maxLength: 30 }),
    temperature: fc.constantFrom(0, 1),
    repetitionPenalty: fc.constantFrom(1, 1.5),
    presencePenalty: fc.constantFrom(0, 0.5),
    frequencyPenalty: fc.constantFrom(0, 0.3),
    minTokens: fc.constantFrom(0, 5),
    maxTokens: fc.integer({ min: 1, max: 24 }),
    ignoreEos: fc.boolean(),
    numLogprobs: fc.constantFrom(-1, 2),
    seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  })
  .map(({ prompt, seed, ...params }) => makeSpec(prompt, { seed, params: { ...defaultParams, ...params } }));

async function run(spec: SequenceSpec, isAsync: boolean, others: readonly SequenceSpec[] = []): Promise<Outcome> {
  const engine = new TestEngine({ isAsync, edits: createEditsBuilder([0]), limits: { maxNumBatchedTokens: 13 } });
  const outcome = engine.add(spec);
  for (const other of others) engine.add(other);
  await engine.drive();
  engine.checkIdle();
  return outcome;
}

test('prompt and tokens so far give the rest: tokens, log-probabilities, end', async () => {
  await fc.assert(
    fc.asyncProperty(
      specs,
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.boolean(),
      specs,
      async (spec, share, isAsync, other) => {
        const whole = await run(spec, isAsync);
        // The last token ended it: there is nothing to go on with behind it.
        const numBefore = Math.floor(share * (whole.tokens.length - 1));
        const generatedIds = Int32Array.from(whole.tokens.slice(0, numBefore));
        const rest = await run({ ...spec, generatedIds }, isAsync, [{ ...other, id: spec.id + 1_000_000 }]);
        expect(rest.tokens).toEqual(whole.tokens.slice(numBefore));
        expect(rest.logprobs).toEqual(whole.logprobs.slice(spec.params.numLogprobs < 0 ? 0 : numBefore));
        expect([rest.finish, rest.stopTokenId]).toEqual([whole.finish, whole.stopTokenId]);
        expect(rest.last?.timing.prefillMs).toBeGreaterThanOrEqual(0);
      },
    ),
    { numRuns: process.env['XLLM_TEST_FULL'] ? 2_000 : 100 },
  );
});
