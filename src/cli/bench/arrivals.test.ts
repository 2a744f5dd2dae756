import { describe, expect, it } from 'vitest';
import { arrivalTimes } from './arrivals.ts';
import { distribution } from './metrics.ts';
import { gamma, randomInteger, seededRandom, streamSeed } from './random.ts';

function gapsOf(times: Float64Array): number[] {
  return Array.from(times, (time, i) => time - (times[i - 1] ?? 0));
}

describe('arrivalTimes', () => {
  const count = 20_000;

  it.each([0.25, 0.5, 1, 4, 100])(
    'draws gaps of the wanted mean and coefficient of variation, burstiness %s',
    (burstiness) => {
      const gaps = distribution(gapsOf(arrivalTimes(count, 50, burstiness, seededRandom(1))));
      expect(gaps?.mean).toBeCloseTo(20, 6); // exact: the sum is rescaled
      const variation = (gaps?.std ?? 0) / (gaps?.mean ?? 1);
      expect(variation * Math.sqrt(burstiness)).toBeGreaterThan(0.94);
      expect(variation * Math.sqrt(burstiness)).toBeLessThan(1.06);
    },
  );

  it('is a Poisson process at burstiness 1: a share of 1/e of the gaps exceeds the mean', () => {
    const gaps = gapsOf(arrivalTimes(count, 1000, 1, seededRandom(2)));
    const share = gaps.filter((gap) => gap > 1).length / count;
    expect(Math.abs(share - Math.exp(-1))).toBeLessThan(0.015);
  });

  it('ends exactly at count / rate, ascends, and repeats with its seed', () => {
    const times = arrivalTimes(100, 8, 0.3, seededRandom(7));
    expect(times.at(-1)).toBeCloseTo(12_500, 6);
    expect(gapsOf(times).every((gap) => gap >= 0)).toBe(true);
    expect(arrivalTimes(100, 8, 0.3, seededRandom(7))).toEqual(times);
    expect(arrivalTimes(100, 8, 0.3, seededRandom(8))).not.toEqual(times);
  });

  it('is regular at infinite burstiness and immediate at infinite rate', () => {
    expect([...arrivalTimes(4, 2, Infinity, seededRandom(1))]).toEqual([500, 1000, 1500, 2000]);
    expect([...arrivalTimes(3, Infinity, 1, seededRandom(1))]).toEqual([0, 0, 0]);
  });
});

describe('random', () => {
  it('draws gamma variates with mean and variance equal to the shape', () => {
    for (const shape of [0.2, 1, 3.5]) {
      const random = seededRandom(11);
      const drawn = distribution(Array.from({ length: 40_000 }, () => gamma(random, shape)));
      expect(Math.abs((drawn?.mean ?? 0) / shape - 1)).toBeLessThan(0.04);
      expect(Math.abs((drawn?.std ?? 0) ** 2 / shape - 1)).toBeLessThan(0.08);
    }
  });

  it('covers an integer range evenly, ends included', () => {
    const random = seededRandom(3);
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 8000; i++) counts[randomInteger(random, 2, 5) - 2]!++;
    for (const n of counts) expect(Math.abs(n - 2000)).toBeLessThan(200);
  });

  it('gives streams of their own', () => {
    expect(streamSeed(1, 'a')).not.toBe(streamSeed(1, 'b'));
    expect(streamSeed(1, 'a')).not.toBe(streamSeed(2, 'a'));
  });
});
