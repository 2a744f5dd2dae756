import { describe, expect, it } from 'vitest';
import { checkPeer, numSureSteps, type Reference } from './reference.ts';

const stopIds = new Set([2]);
const one = (greedyIds: number[], margins: number[], promptIds = [7]) => ({ promptIds, greedyIds, margins });

describe('numSureSteps', () => {
  it('ends before the first small margin and before the first stop token', () => {
    expect(numSureSteps(one([5, 6, 7], [3, 1, 2]), stopIds)).toBe(3);
    expect(numSureSteps(one([5, 6, 7], [3, 0.99, 2]), stopIds)).toBe(1);
    expect(numSureSteps(one([5, 2, 7], [3, 9, 2]), stopIds)).toBe(1);
    expect(numSureSteps(one([5], [0.2]), stopIds)).toBe(0);
    expect(numSureSteps(one([5, 6], [4]), stopIds)).toBe(1);
  });
});

describe('checkPeer', () => {
  const reference: Reference = {
    source: 'test',
    cases: [one([5, 6, 7], [3, 3, 0.5], [1]), one([8], [0.1], [2]), one([9, 4], [2, 2], [3])],
  };
  const answers: Record<number, number[]> = { 1: [5, 6], 3: [9, 4] };

  it('compares every case up to where the reference is sure, and asks for no more', async () => {
    const asked: number[][] = [];
    const check = await checkPeer(reference, stopIds, (promptIds, maxTokens) => {
      asked.push([...promptIds, maxTokens]);
      return Promise.resolve(answers[promptIds[0]!]!);
    });
    expect(check).toEqual({ verdict: 'right', numPrompts: 2, numTokens: 4, difference: null });
    expect(asked).toEqual([
      [1, 2],
      [3, 2],
    ]);
  });

  it('names the first difference, a missing token included', async () => {
    const wrong = await checkPeer(reference, stopIds, ([id]) => Promise.resolve(id === 3 ? [9, 5] : answers[1]!));
    expect(wrong).toEqual({
      verdict: 'wrong',
      numPrompts: 2,
      numTokens: 3,
      difference: { prompt: 2, step: 1, expected: 4, got: 5 },
    });
    const short = await checkPeer(reference, stopIds, () => Promise.resolve([5]));
    expect(short.difference).toEqual({ prompt: 0, step: 1, expected: 6, got: null });
  });

  it('says so when nothing could be checked', async () => {
    const unsure = { source: 'test', cases: [one([5], [0.5])] };
    const check = await checkPeer(unsure, stopIds, () => Promise.reject(new Error('never asked')));
    expect(check.verdict).toBe('unchecked');
  });
});
