// Policies on pieces of request traces, in virtual time: what each is for shows, and the predictions are good.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { azureSetting, mooncakeSetting, shareWithin, sharedCache } from '../../bench/routing/settings.ts';
import { simulate } from '../../bench/routing/simulate.ts';
import { parseTrace } from '../../src/cli/bench/traces.ts';
import { root } from '../support/server.ts';

const read = (name: string) => parseTrace(readFileSync(join(root, 'test/fixtures/traces', name), 'utf8'), name);
const mean = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0) / values.length;

test.each([0.25, 1])(
  'cache-aware: nine tenths of the hits of one shared cache, and the soonest first token (%d)',
  (share) => {
    const { requests, options } = mooncakeSetting(read('mooncake-conversation.jsonl'), share, 0.25);
    const shared = sharedCache(requests, options);
    const of = (policy: 'round-robin' | 'least-load' | 'cache-aware') => simulate(requests, { ...options, policy });
    const [turns, least, aware] = [of('round-robin'), of('least-load'), of('cache-aware')];
    expect(aware.hitRate).toBeGreaterThanOrEqual(0.9 * shared.hitRate);
    expect(mean(aware.ttftMs)).toBeLessThan(mean(turns.ttftMs));
    expect(mean(aware.ttftMs)).toBeLessThan(mean(least.ttftMs));
    expect(aware.ttftError).toBeLessThan(0.3);
  },
  600_000,
);

test('slo-aware: more requests within their objectives than least-load under bursts, no fewer otherwise', () => {
  const within = (trace: string, rate: number, policy: 'least-load' | 'slo-aware') => {
    const { requests, options } = azureSetting(read(trace), rate);
    return shareWithin(simulate(requests, { ...options, policy }));
  };
  for (const rate of [3, 4]) {
    expect(within('azure-code.csv', rate, 'slo-aware')).toBeGreaterThan(within('azure-code.csv', rate, 'least-load'));
  }
  for (const rate of [5, 7]) {
    expect(within('azure-conv.csv', rate, 'slo-aware')).toBeGreaterThanOrEqual(
      within('azure-conv.csv', rate, 'least-load'),
    );
  }
}, 600_000);
