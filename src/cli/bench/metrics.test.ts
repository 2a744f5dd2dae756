import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { distribution, median, peakConcurrency, percentile, type RequestRecord, summarise } from './metrics.ts';

function record(startMs: number, chunkMs: number[], more: Partial<RequestRecord> = {}): RequestRecord {
  return {
    outcome: 'ok',
    error: '',
    startMs,
    queueMs: 0,
    chunkMs,
    promptTokens: 10,
    cachedTokens: 0,
    outputTokens: chunkMs.length,
    isUsageReported: true,
    ...more,
  };
}

describe('summarise', () => {
  // Times in ms. A: TTFT 100, E2EL 400, gaps 50 50 200, TPOT 300/3 = 100.
  // B: TTFT 200, E2EL 300, one gap of 100 that carried two tokens: TPOT 100/2 = 50.
  // C: one token: TTFT 500, E2EL 500, no TPOT.
  const a = record(1000, [1100, 1150, 1200, 1400], { promptTokens: 7, cachedTokens: 4 });
  const b = record(1050, [1250, 1350], { outputTokens: 3, queueMs: 40 });
  const c = record(1400, [1900], { isUsageReported: false });
  const failed = record(900, [950], { outcome: 'failed', error: 'HTTP 503' });
  const aborted = record(1300, [1350, 1360], { outcome: 'aborted' });
  const summary = summarise([a, failed, b, aborted, c], 2000, { ttft: 250, tpot: 75 });

  it('defines latencies as vLLM does', () => {
    expect(summary.ttftMs).toMatchObject({ count: 3, mean: 800 / 3, median: 200, p90: 200 + 0.8 * 300 });
    expect(summary.tpotMs).toMatchObject({ count: 2, mean: 75, median: 75, std: 25 });
    expect(summary.itlMs).toMatchObject({ count: 4, mean: 100, median: 75 });
    expect(summary.e2elMs).toMatchObject({ count: 3, mean: 400, median: 400, p99: 498 });
    expect(summary.queueMs).toMatchObject({ count: 3, mean: 40 / 3 });
  });

  it('counts failures and aborts, and leaves them out of everything else', () => {
    expect(summary).toMatchObject({ completed: 3, failed: 1, aborted: 1 });
    expect(summary).toMatchObject({ promptTokens: 27, cachedTokens: 4, outputTokens: 8, numWithoutUsage: 1 });
  });

  it('relates throughput to the whole duration', () => {
    expect(summary).toMatchObject({ requestsPerS: 1.5, outputTokensPerS: 4, totalTokensPerS: 17.5 });
  });

  it('counts a request as good when it meets every limit; one token means a TPOT of 0', () => {
    expect(summary.goodputPerS).toBe(0.5); // B alone: A's TPOT is 100, C's TTFT 500
    expect(summarise([a, b, c], 2000, { tpot: 75 }).goodputPerS).toBe(1);
    expect(summarise([a, b, c], 2000, { e2el: 400 }).goodputPerS).toBe(1);
    expect(summarise([a, b, c], 2000).goodputPerS).toBeNull();
  });

  it('finds the peak second, counted from the first send, and the peak concurrency', () => {
    expect(summary.peakOutputTokensPerS).toBe(7);
    const late = record(1000, [1999.9, 2000, 2500, 2999.9, 3000]);
    expect(summarise([late], 2000).peakOutputTokensPerS).toBe(3);
    expect(summary.peakConcurrency).toBe(2); // C is sent at the very moment A ends
  });

  it('has no latencies without a completed request', () => {
    expect(summarise([failed], 100)).toMatchObject({ completed: 0, ttftMs: null, itlMs: null, outputTokensPerS: 0 });
    expect(summarise([], 0)).toMatchObject({ requestsPerS: 0, peakConcurrency: 0, peakOutputTokensPerS: 0 });
  });
});

describe('percentile', () => {
  it('interpolates linearly between ranks', () => {
    expect(percentile([10, 20, 30, 40], 50)).toBe(25);
    expect(percentile([10, 20, 30, 40], 90)).toBeCloseTo(37);
    expect(percentile([10], 99)).toBe(10);
    expect(() => percentile([], 50)).toThrow(RangeError);
  });

  const values = fc.array(
    fc.double({ min: -1e6, max: 1e6, noNaN: true }).map((value) => value + 0), // no -0
    { minLength: 1 },
  );

  it('stays within the values, rises with the percentage, and meets them at the ends', () => {
    fc.assert(
      fc.property(
        values,
        fc.double({ min: 0, max: 100, noNaN: true }),
        fc.double({ min: 0, max: 100, noNaN: true }),
        (list, p, q) => {
          const sorted = Float64Array.from(list).sort();
          const [low, high] = [Math.min(p, q), Math.max(p, q)];
          expect(percentile(sorted, 0)).toBe(sorted[0]);
          expect(percentile(sorted, 100)).toBe(sorted.at(-1));
          expect(percentile(sorted, low)).toBeLessThanOrEqual(percentile(sorted, high) + 1e-9);
        },
      ),
    );
  });

  it('has at least p % of the values at or below the p-th, up to interpolation', () => {
    fc.assert(
      fc.property(values, fc.integer({ min: 0, max: 100 }), (list, p) => {
        const sorted = Float64Array.from(list).sort();
        const value = percentile(sorted, p);
        const below = sorted.filter((x) => x <= value + 1e-9).length;
        expect(below).toBeGreaterThanOrEqual(Math.floor((p / 100) * (sorted.length - 1)) + 1);
      }),
    );
  });

  it('gives the same distribution in any order', () => {
    fc.assert(
      fc.property(values, (list) => {
        expect(distribution(list.toReversed())).toEqual(distribution(list));
        expect(median(list)).toBe(distribution(list)?.median);
      }),
    );
  });
});

describe('peakConcurrency', () => {
  it('equals the most intervals over any start point', () => {
    const interval = fc.tuple(fc.integer({ min: 0, max: 50 }), fc.integer({ min: 1, max: 20 }));
    fc.assert(
      fc.property(fc.array(interval), (list) => {
        const intervals = list.map(([start, length]) => [start, start + length] as const);
        const overlaps = intervals.map(([at]) => intervals.filter(([start, end]) => start <= at && at < end).length);
        expect(peakConcurrency(intervals)).toBe(Math.max(0, ...overlaps));
      }),
    );
  });
});
