import { describe, expect, it } from 'vitest';
import { systemClock } from './clock.ts';
import type { RequestRecord } from './metrics.ts';
import { runSteady, summariseSteady } from './steady.ts';

function record(chunkMs: number[], more: Partial<RequestRecord> = {}): RequestRecord {
  return {
    outcome: 'ok',
    error: '',
    startMs: 0,
    queueMs: 0,
    chunkMs,
    promptTokens: 10,
    cachedTokens: 0,
    outputTokens: chunkMs.length,
    isUsageReported: true,
    ...more,
  };
}

const never = new AbortController().signal;

describe('summariseSteady', () => {
  it('counts what arrives between its borders, of requests that were cut off, too', () => {
    const records = [
      record([900, 1000, 1100, 1200]), // two of four count
      record([1500, 1700, 1900], { startMs: 1300 }),
      record([1950, 2050], { startMs: 1800, outcome: 'aborted' }), // one counts
    ];
    expect(summariseSteady({ records, openMs: 1000, closeMs: 2000 })).toEqual({
      outputTokensPerS: 6,
      tpotMs: 500 / 3, // gaps of 100, 200 and 200
      ttftMs: 175, // of 200 and 150
      numCompletions: 2,
    });
  });

  it('weighs chunks by the tokens that complete requests had in them', () => {
    const records = [record([1000, 2000], { outputTokens: 4 }), record([1500], { outcome: 'aborted' })];
    expect(summariseSteady({ records, openMs: 500, closeMs: 2500 })).toMatchObject({
      outputTokensPerS: 3, // 3 chunks of 2 tokens in 2 s
      tpotMs: 500,
    });
  });

  it('has no figure when nothing was counted', () => {
    const none = { outputTokensPerS: null, tpotMs: null, ttftMs: null, numCompletions: 0 };
    expect(summariseSteady({ records: [], openMs: 5, closeMs: 5 })).toEqual(none);
  });
});

describe('runSteady', () => {
  const plan = { concurrency: 4, outputLen: 8, numCompletions: 12, maxMs: 60_000 };

  /** A server with room for everybody: a token per millisecond. */
  async function answer(maxTokens: number, signal: AbortSignal, onFirstToken: () => void): Promise<RequestRecord> {
    const startMs = systemClock.now();
    const chunkMs: number[] = [];
    for (let token = 0; token < maxTokens; token++) {
      await systemClock.sleep(1, never);
      if (signal.aborted) return record(chunkMs, { startMs, outcome: 'aborted' });
      chunkMs.push(systemClock.now());
      if (token === 0) onFirstToken();
    }
    return record(chunkMs, { startMs });
  }

  it('spreads the first requests by their length, and ends after enough completions', async () => {
    const asked: number[] = [];
    const load = await runSteady(
      plan,
      (index, maxTokens, signal, onFirstToken) => {
        asked[index] = maxTokens;
        return answer(maxTokens, signal, onFirstToken);
      },
      systemClock,
      never,
    );
    expect(asked.slice(0, 4)).toEqual([2, 4, 6, 8]);
    expect(new Set(asked.slice(4))).toEqual(new Set([8]));
    const firstTokens = load.records.map(({ chunkMs }) => chunkMs[0] ?? Infinity).toSorted((a, b) => a - b);
    expect(load.openMs).toBeGreaterThanOrEqual(firstTokens[3]!);
    expect(load.closeMs).toBeGreaterThan(load.openMs);
    // All places are kept busy to the end: what runs then is cut off.
    expect(load.records.filter(({ outcome }) => outcome === 'aborted').length).toBeGreaterThanOrEqual(3);
  });

  it('ends when its time is up', async () => {
    const load = await runSteady(
      { ...plan, numCompletions: Infinity, maxMs: 50 },
      (_, maxTokens, signal, onFirstToken) => answer(maxTokens, signal, onFirstToken),
      systemClock,
      never,
    );
    expect(load.closeMs - load.openMs).toBeGreaterThanOrEqual(49);
  });

  it('ends at the first failure', async () => {
    const load = await runSteady(
      plan,
      () => Promise.resolve(record([], { outcome: 'failed', error: 'HTTP 500' })),
      systemClock,
      never,
    );
    expect(load.records.map(({ outcome }) => outcome)).toEqual(['failed', 'failed', 'failed', 'failed']);
    expect(summariseSteady(load).outputTokensPerS).toBeNull();
  });
});
