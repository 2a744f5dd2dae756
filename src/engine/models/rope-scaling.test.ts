// Scaling schemes against the values that transformers computes for published settings.
import { expect, it } from 'vitest';
import { ropeFactors } from './rope-scaling.ts';

const list = (factors: Float32Array | null) => Array.from(factors ?? [], (factor) => Number(factor.toFixed(4)));

it('leaves plain rope alone', () => {
  expect(ropeFactors({ type: 'none' }, 10_000, 64)).toEqual({ frequencyFactors: null, attnFactor: 1 });
});

it('divides all frequencies by a linear factor', () => {
  expect(list(ropeFactors({ type: 'linear', factor: 4 }, 10_000, 8).frequencyFactors)).toEqual([4, 4, 4, 4]);
});

it('keeps high frequencies and divides low ones for Llama 3', () => {
  const scaling = {
    type: 'llama3',
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositions: 8192,
  } as const;
  const factors = list(ropeFactors(scaling, 500_000, 128).frequencyFactors);
  expect(factors.slice(0, 29)).toEqual(Array.from({ length: 29 }, () => 1));
  expect(factors.slice(35)).toEqual(Array.from({ length: 29 }, () => 8));
  // In between they rise.
  expect(factors.slice(28, 36)).toEqual(factors.slice(28, 36).toSorted((a, b) => a - b));
});

it('ramps between the two for yarn, and scales the vectors', () => {
  const scaling = {
    type: 'yarn',
    factor: 4,
    originalMaxPositions: 32,
    betaFast: 32,
    betaSlow: 1,
    attentionFactor: null,
  } as const;
  const { frequencyFactors, attnFactor } = ropeFactors(scaling, 10_000, 16);
  // Low 0, high 2: pair 1 lies half way.
  expect(list(frequencyFactors)).toEqual([1, 1.6, 4, 4, 4, 4, 4, 4]);
  expect(attnFactor).toBeCloseTo(0.1 * Math.log(4) + 1);
  expect(ropeFactors({ ...scaling, attentionFactor: 1.25 }, 10_000, 16).attnFactor).toBe(1.25);
});
