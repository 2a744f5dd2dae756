import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { samplingFields, toSampling } from './sampling-fields.ts';
import { unsupportedField, unsupportedInChat, unsupportedInCompletions } from './unsupported.ts';

const schema = z.object(samplingFields);
const context = { defaults: {}, vocabSize: 100, maxTokens: 50, numLogprobs: -1, numPromptLogprobs: -1 };
const sample = (fields: object) => toSampling(schema.parse(fields), context);

describe('toSampling', () => {
  test('values that mean off or greedy', () => {
    expect(sample({ temperature: 1e-6 }).temperature).toBe(0);
    expect(sample({ top_k: -1 }).topK).toBe(0);
    expect(sample({ top_p: 0 }).topP).toBeGreaterThan(0);
    expect(sample({ temperature: null, top_p: null }).topP).toBe(1);
  });

  test('biases are sorted and unique', () => {
    const { logitBias } = sample({ logit_bias: { 30: 1, '007': 2, 7: 3, 4: 4 } });
    expect(logitBias.map(({ tokenId }) => tokenId)).toEqual([4, 7, 30]);
  });

  test('infinite and huge numbers do not pass', () => {
    for (const field of ['temperature', 'top_p', 'min_p', 'repetition_penalty', 'seed', 'ttft_slo_ms'])
      expect(schema.safeParse({ [field]: Number.POSITIVE_INFINITY }).success, field).toBe(false);
    expect(schema.safeParse({ seed: 2 ** 53 }).success).toBe(false);
  });
});

describe('unsupported fields', () => {
  test('are none that a schema takes', async () => {
    const { chatRequest } = await import('../chat/schema.ts');
    const { completionRequest } = await import('../completions/schema.ts');
    for (const name of Object.keys(unsupportedInCompletions))
      expect(completionRequest.shape, name).not.toHaveProperty(name);
    for (const name of Object.keys(unsupportedInChat)) expect(chatRequest.shape, name).not.toHaveProperty(name);
  });

  test('null and harmless values ask for nothing', () => {
    expect(
      unsupportedField({ tools: null, tool_choice: 'none', user: 'x', constructor: 1 }, unsupportedInChat),
    ).toBeNull();
    expect(unsupportedField({ tools: [{}] }, unsupportedInChat)).toBe('tools');
  });
});
