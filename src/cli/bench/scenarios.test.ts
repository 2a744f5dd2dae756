import { describe, expect, it } from 'vitest';
import { type RequestRecord, summarise } from './metrics.ts';
import { defaultScenarioIds, scenarioRequests, scenarios } from './scenarios.ts';

const scenario = (id: string) => scenarios.find((one) => one.id === id)!;

describe('scenarios', () => {
  it('fit the slots of every system: 1,280 tokens in a batch, 4,096 alone', () => {
    for (const { shape, prefixLen, inputLen, outputLen } of scenarios)
      expect(prefixLen + inputLen + outputLen).toBeLessThanOrEqual(shape === 'batch' ? 1280 : 4096);
    expect(defaultScenarioIds).not.toContain('closed-32');
  });

  it('yield the figures that they name', () => {
    const record: RequestRecord = {
      outcome: 'ok',
      error: '',
      startMs: 0,
      queueMs: 0,
      chunkMs: [256, 256 + 127 * 5],
      promptTokens: 512,
      cachedTokens: 0,
      outputTokens: 128,
      isUsageReported: true,
    };
    const summary = summarise([record], 2000);
    expect(scenario('prefill-512').figure(summary)).toBeCloseTo(2000);
    expect(scenario('decode').figure(summary)).toBeCloseTo(200);
    expect(scenario('closed-8').figure(summary)).toBeCloseTo(64);
  });

  it('ask every system the same, and never the same twice', () => {
    const prompts = (sample: string) =>
      scenarioRequests(scenario('shared-prefix'), 5000, sample).map(({ prompt }) => prompt);
    expect(prompts('0 0')).toEqual(prompts('0 0'));
    const heads = [...prompts('0 0'), ...prompts('0 1')].map((prompt) => String(prompt.slice(0, 1024)));
    expect(new Set(heads).size).toBe(2);
  });
});
