// The step-time model learned from steps: exact without noise, close under outliers, never negative, bounded.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { addRow, noStep, predictPrefillMs, predictStepMs, type StepTimeModel } from '../../common/step-time.ts';
import { StepTimeFit } from './step-time-fit.ts';

const zero: StepTimeModel = { constantMs: 0, tokenMs: 0, seqMs: 0, contextMs: 0, pairMs: 0 };
const price = (max: number) => fc.double({ min: 0, max, noNaN: true });
const models = fc.record({
  constantMs: fc.double({ min: 0.5, max: 20, noNaN: true }),
  tokenMs: price(2),
  seqMs: price(1),
  contextMs: price(1e-3),
  pairMs: price(1e-5),
});

/** Steps as they come: some prefill chunks among decodes. */
function shapes(count: number, seed: number) {
  let state = seed >>> 0;
  const next = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  return Array.from({ length: count }, () => {
    let shape = noStep;
    for (let row = next(32); row >= 0; row--) shape = addRow(shape, next(4000), 1);
    if (next(3) === 0) shape = addRow(shape, next(8) * 256, 1 + next(512));
    return shape;
  });
}

test('steps without noise are predicted within two percent, and nothing is negative', () => {
  fc.assert(
    fc.property(models, fc.nat(), (truth, seed) => {
      const fit = new StepTimeFit(zero);
      for (const shape of shapes(256, seed)) fit.observe(shape, predictStepMs(truth, shape));
      expect(Math.min(...Object.values(fit.model))).toBeGreaterThanOrEqual(0);
      for (const shape of shapes(50, seed + 1)) {
        const actual = predictStepMs(truth, shape);
        expect(Math.abs(predictStepMs(fit.model, shape) - actual) / actual).toBeLessThan(0.02);
      }
    }),
    { numRuns: 50 },
  );
});

test('one step in ten that takes five times as long moves the prediction by little', () => {
  fc.assert(
    fc.property(models, fc.nat(), (truth, seed) => {
      const fit = new StepTimeFit(zero);
      shapes(512, seed).forEach((shape, i) => {
        fit.observe(shape, predictStepMs(truth, shape) * (i % 10 === 3 ? 5 : 1));
      });
      for (const shape of shapes(50, seed + 1)) {
        const actual = predictStepMs(truth, shape);
        expect(Math.abs(predictStepMs(fit.model, shape) - actual) / actual).toBeLessThan(0.12);
      }
    }),
    { numRuns: 50 },
  );
});

describe('what the data leave open', () => {
  const prior = { constantMs: 3, tokenMs: 0.2, seqMs: 0.1, contextMs: 1e-4, pairMs: 1e-6 };

  test('decodes of one length say nothing of prefills: those keep their start', () => {
    const fit = new StepTimeFit(prior);
    const decode = addRow(noStep, 100, 1);
    for (let i = 0; i < 128; i++) fit.observe(decode, predictStepMs(prior, decode));
    const prefill = addRow(noStep, 0, 512);
    expect(predictStepMs(fit.model, prefill) / predictStepMs(prior, prefill)).toBeCloseTo(1, 1);
  });

  test('the error falls once the model has followed a change', () => {
    const fit = new StepTimeFit(prior);
    const slower = { ...prior, constantMs: 12, tokenMs: 0.8 };
    const steps = shapes(2_000, 7);
    for (const shape of steps.slice(0, 15)) fit.observe(shape, predictStepMs(slower, shape));
    const before = fit.error;
    for (const shape of steps.slice(15)) fit.observe(shape, predictStepMs(slower, shape));
    expect(before).toBeGreaterThan(0.3);
    expect(fit.error).toBeLessThan(0.02);
  });
});

test('a prompt in chunks costs what its steps cost', () => {
  fc.assert(
    fc.property(
      models,
      fc.nat(3000),
      fc.integer({ min: 1, max: 5000 }),
      fc.integer({ min: 1, max: 700 }),
      (truth, start, length, chunk) => {
        let sum = 0;
        for (let at = start; at < start + length; at += chunk) {
          sum += predictStepMs(truth, addRow(noStep, at, Math.min(chunk, start + length - at)));
        }
        const predicted = predictPrefillMs(truth, start, start + length, chunk);
        expect(Math.abs(predicted - sum)).toBeLessThan(1e-6 * (1 + sum));
      },
    ),
  );
});
