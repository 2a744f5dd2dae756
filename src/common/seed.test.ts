import { expect, test } from 'vitest';
import { choiceSeed } from './seed.ts';

test('choice 0 keeps the seed, the others get seeds of their own', () => {
  expect(choiceSeed(42n, 0)).toBe(42n);
  expect(choiceSeed(-1n, 0)).toBe(2n ** 64n - 1n);
  const seeds = Array.from({ length: 100 }, (_, i) => choiceSeed(42n, i));
  expect(new Set(seeds).size).toBe(100);
  expect(seeds.every((seed) => seed >= 0n && seed < 2n ** 64n)).toBe(true);
});

test('splitmix64 as published: the first output from state 0', () => {
  // With seed = i * golden the xor gives state 0, whose first output is 0xe220a8397b1dcdaf.
  expect(choiceSeed(0x9e3779b97f4a7c15n, 1)).toBe(0xe220a8397b1dcdafn);
});
