// Rounded sizes cover what they must, waste little and are few.
import { expect, it } from 'vitest';
import { roundUpBlocks, roundUpTokens } from './buckets.ts';

it('rounds token counts up by a quarter at most, exactly up to 8', () => {
  const buckets = new Set<number>();
  for (let count = 1; count <= 4096; count++) {
    const rounded = roundUpTokens(count);
    expect(rounded).toBeGreaterThanOrEqual(count);
    expect(rounded).toBeLessThanOrEqual(count <= 8 ? count : Math.ceil(1.25 * count));
    expect(roundUpTokens(rounded)).toBe(rounded);
    buckets.add(rounded);
  }
  expect([...buckets].slice(0, 20)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80]);
  expect(buckets.size).toBeLessThan(50);
});

it('rounds block counts up to powers of two, then to 16s', () => {
  expect([1, 2, 3, 5, 9, 16, 17, 33].map(roundUpBlocks)).toEqual([1, 2, 4, 8, 16, 16, 32, 48]);
});
