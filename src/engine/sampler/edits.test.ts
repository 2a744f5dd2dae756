// Edits against their definition, recomputed from the whole history at every step.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { greedyParams, type LogitEdits, type SamplingParams } from '../scheduler/sampling-params.ts';
import { createEditsBuilder } from './edits.ts';

const defaults: SamplingParams = { ...greedyParams, temperature: 1, ignoreEos: false, maxTokens: 100 };
const modelStopIds = [2, 7];

const sequenceOf = (params: Partial<SamplingParams>, prompt: readonly number[], generated: readonly number[] = []) => ({
  params: { ...defaults, ...params },
  tokens: Int32Array.from([...prompt, ...generated]),
  numTokens: prompt.length + generated.length,
  numPrompt: prompt.length,
});

/** What the edits do to a logit of 1 and of -1, per id; ids that they leave alone are left out. */
function effect(edits: LogitEdits | null): Map<number, readonly [number, number]> {
  const out = new Map<number, readonly [number, number]>();
  edits?.tokenIds.forEach((id, e) => {
    const positive = edits.scalePositive[e]! + edits.add[e]!;
    const negative = -edits.scaleNegative[e]! + edits.add[e]!;
    if (positive !== 1 || negative !== -1) out.set(id, [positive, negative]);
  });
  return out;
}

function definition(params: SamplingParams, prompt: readonly number[], generated: readonly number[], position: number) {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias, minTokens, stopTokenIds } = params;
  const out = new Map<number, readonly [number, number]>();
  for (const id of new Set([
    ...prompt,
    ...generated,
    ...logitBias.map((b) => b.tokenId),
    ...modelStopIds,
    ...stopTokenIds,
  ])) {
    const count = generated.filter((other) => other === id).length;
    const isSeen = count > 0 || prompt.includes(id);
    const scale = isSeen ? repetitionPenalty : 1;
    const bias = logitBias.filter((b) => b.tokenId === id).reduce((sum, b) => Math.fround(sum + b.bias), 0);
    const isForbidden = position - prompt.length < minTokens && [...modelStopIds, ...stopTokenIds].includes(id);
    const add = isForbidden
      ? -Infinity
      : Math.fround(bias - (count > 0 ? presencePenalty : 0) - frequencyPenalty * count);
    const pair = [Math.fround(1 / scale) + add, -Math.fround(scale) + add] as const;
    if (pair[0] !== 1 || pair[1] !== -1) out.set(id, pair);
  }
  return out;
}

const token = fc.integer({ min: 0, max: 12 });
const paramsArbitrary = fc.record({
  repetitionPenalty: fc.constantFrom(1, 1, 1.25, 0.5),
  presencePenalty: fc.constantFrom(0, 0, 0.5, -1),
  frequencyPenalty: fc.constantFrom(0, 0, 0.25, -0.5),
  logitBias: fc.uniqueArray(fc.record({ tokenId: token, bias: fc.constantFrom(-100, 2.5, 100) }), {
    selector: ({ tokenId }) => tokenId,
    maxLength: 4,
  }),
  minTokens: fc.constantFrom(0, 0, 1, 4),
  stopTokenIds: fc.array(token, { maxLength: 2 }),
});

test('edits built up token by token are those of the whole history', () => {
  fc.assert(
    fc.property(
      paramsArbitrary,
      fc.array(token, { minLength: 1, maxLength: 20 }),
      fc.array(token, { maxLength: 20 }),
      fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 10 }),
      (partial, prompt, future, strides) => {
        const builder = createEditsBuilder(modelStopIds);
        const sequence = sequenceOf(partial, prompt, future);
        sequence.numTokens = prompt.length;
        const values: { edits: LogitEdits | null; copy: string }[] = [];
        for (const stride of [0, ...strides]) {
          sequence.numTokens = Math.min(sequence.numTokens + stride, prompt.length + future.length);
          const edits = builder.editsFor(sequence, sequence.numTokens);
          const generated = future.slice(0, sequence.numTokens - prompt.length);
          expect(effect(edits)).toEqual(definition(sequence.params, prompt, generated, sequence.numTokens));
          const ids = [...(edits?.tokenIds ?? [])];
          expect(ids).toEqual([...new Set(ids)].sort((a, b) => a - b));
          values.push({ edits, copy: JSON.stringify(edits) });
        }
        // Earlier edits are values: later tokens did not change them.
        for (const { edits, copy } of values) expect(JSON.stringify(edits)).toBe(copy);
      },
    ),
    { numRuns: process.env['XLLM_TEST_FULL'] ? 5000 : 200, seed: 1 },
  );
});

test('no edits where nothing asks for any, so that greedy rows stay on the fast path', () => {
  const builder = createEditsBuilder(modelStopIds);
  expect(builder.editsFor(sequenceOf({}, [1, 2, 3]), 3)).toBeNull();
  expect(builder.needsTokens(defaults)).toBe(false);
  const waiting = sequenceOf({ minTokens: 1 }, [1, 2, 3]);
  expect(builder.editsFor(waiting, 3)?.tokenIds).toEqual(Int32Array.of(2, 7));
  expect(builder.editsFor(waiting, 4)).toBeNull();
});

test('only penalties depend on the tokens themselves', () => {
  const builder = createEditsBuilder(modelStopIds);
  expect(builder.needsTokens({ ...defaults, minTokens: 3, logitBias: [{ tokenId: 1, bias: 1 }] })).toBe(false);
  for (const name of ['repetitionPenalty', 'presencePenalty', 'frequencyPenalty'] as const)
    expect(builder.needsTokens({ ...defaults, [name]: 0.5 })).toBe(true);
});

test('min_tokens counts positions, so that it holds before the last token is known', () => {
  const builder = createEditsBuilder(modelStopIds);
  const sequence = sequenceOf({ minTokens: 2, ignoreEos: true, stopTokenIds: [5] }, [1]);
  expect(builder.editsFor(sequence, 2)?.tokenIds).toEqual(Int32Array.of(2, 5, 7));
  expect(builder.editsFor(sequence, 3)).toBeNull();
});

test('a history that shrank is read again', () => {
  const builder = createEditsBuilder([]);
  const sequence = sequenceOf({ presencePenalty: 1 }, [1], [4, 5]);
  expect(builder.editsFor(sequence, 3)?.tokenIds).toEqual(Int32Array.of(4, 5));
  sequence.numTokens = 2;
  expect(builder.editsFor(sequence, 2)?.tokenIds).toEqual(Int32Array.of(4));
});

test('an unchanged history costs no copy', () => {
  const builder = createEditsBuilder([]);
  const sequence = sequenceOf({ repetitionPenalty: 1.1 }, [1, 2], [1]);
  sequence.numTokens = 2;
  const first = builder.editsFor(sequence, 2);
  expect(builder.editsFor(sequence, 2)).toBe(first);
});
