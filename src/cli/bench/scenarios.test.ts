import { describe, expect, it } from 'vitest';
import { type RequestRecord, summarise } from './metrics.ts';
import { boundedLoad, type FiniteScenario, scenarioRequests, scenarios, steadyRequest } from './scenarios.ts';

function finite(id: string): FiniteScenario {
  const scenario = scenarios.find((one) => one.id === id);
  if (scenario?.kind !== 'finite') throw new Error(id);
  return scenario;
}
const steady = scenarios.filter((one) => one.kind === 'steady');

describe('scenarios', () => {
  it('fit the slots of every system: 1,280 tokens in a batch, 4,096 alone', () => {
    for (const { shape, prefixLen, inputLen, outputLen } of scenarios)
      expect(prefixLen + inputLen + outputLen).toBeLessThanOrEqual(shape === 'batch' ? 1280 : 4096);
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
    expect(finite('prefill-512').figure(summary)).toBeCloseTo(2000);
    expect(finite('decode').figure(summary)).toBeCloseTo(200);
    expect(finite('shared-prefix').figure(summary)).toBeCloseTo(64);
  });

  it('ask every system the same, and never the same twice', () => {
    const prompts = (sample: string) =>
      scenarioRequests(finite('shared-prefix'), 5000, sample).map(({ prompt }) => prompt);
    expect(prompts('0 0')).toEqual(prompts('0 0'));
    const heads = [...prompts('0 0'), ...prompts('0 1')].map((prompt) => String(prompt.slice(0, 1024)));
    expect(new Set(heads).size).toBe(2);
    const [loop] = steady;
    const drawn = [0, 1, 2].map((index) => steadyRequest(loop!, 5000, '0 0', index));
    expect(steadyRequest(loop!, 5000, '0 0', 1)).toEqual(drawn[1]);
    expect(new Set(drawn.map(({ prompt }) => String(prompt))).size).toBe(3);
  });

  it('cover loops of 1 to 32 sequences, four waves each', () => {
    expect(steady.map(({ maxConcurrency }) => maxConcurrency)).toEqual([1, 2, 4, 8, 16, 32]);
    expect(
      steady.every(({ numWaves, inputLen, outputLen }) => numWaves === 4 && inputLen === 256 && outputLen === 128),
    ).toBe(true);
  });

  it('say what they are bound by', () => {
    expect(boundedLoad(finite('shared-prefix'))).toEqual({
      concurrency: 8,
      numPrompt: 96,
      numOutput: 32,
      meanContext: 1104,
    });
  });
});
