// Compares routing policies on request traces: real registry, router, scheduler and KV cache, in virtual time.
// Run: node bench/routing.ts FOLDER-OF-TRACES [requests]
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseTrace, TRACE_BLOCK_TOKENS } from '../src/cli/bench/traces.ts';
import { policyNames } from '../src/service/routing/policies.ts';
import {
  azureSetting,
  mooncakeSetting,
  numDistinctBlocks,
  numInstances,
  objectives,
  sharedCache,
  shareWithin,
} from './routing/settings.ts';
import { simulate } from './routing/simulate.ts';

const folder = process.argv[2];
if (folder === undefined) throw new Error('name the folder that holds azure-llm-2023/ and mooncake-fast25/');
const numRequests = Number(process.argv[3] ?? 2_000);
/** Of the trace's own: about half of what the instances could do. */
const MOONCAKE_RATE = 0.5;

const read = (path: string) => parseTrace(readFileSync(join(folder, path), 'utf8'), path).slice(0, numRequests);
const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
const quantile = (values: readonly number[], share: number) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))] ?? Number.NaN;

function mooncake(): void {
  const entries = read('mooncake-fast25/conversation.first-half.jsonl');
  console.log(
    `\nMooncake conversation, ${entries.length} requests at ${MOONCAKE_RATE} times its rate, ${numInstances} instances, ` +
      `blocks of ${TRACE_BLOCK_TOKENS}, ${numDistinctBlocks(entries)} of them distinct`,
  );
  for (const share of [0.25, 1]) {
    const { requests, options } = mooncakeSetting(entries, share, MOONCAKE_RATE);
    const shared = sharedCache(requests, options);
    console.log(
      `  all caches hold ${share * 100} % of the blocks; one of that size would hit ${percent(shared.hitRate)}`,
    );
    for (const policy of policyNames) {
      const { ttftMs, hitRate, ttftError } = simulate(requests, { ...options, policy });
      const ttft = [...ttftMs].filter((ms) => !Number.isNaN(ms));
      console.log(
        `    ${policy.padEnd(12)} hits ${percent(hitRate)}, ${percent(hitRate / shared.hitRate)} of that; TTFT mean ` +
          `${mean(ttft).toFixed(0)} ms, p99 ${quantile(ttft, 0.99).toFixed(0)} ms; predictions off by ${percent(ttftError)}`,
      );
    }
  }
}

function azure(name: 'code' | 'conv'): void {
  const entries = read(`azure-llm-2023/${name}.first-half.csv`);
  const { ttftSloMs, tpotSloMs } = objectives;
  console.log(
    `\nAzure ${name}, ${entries.length} requests, ${numInstances} instances: highest rate at which 90 % have their first token ` +
      `within ${ttftSloMs} ms and later ones within ${tpotSloMs} ms`,
  );
  for (const policy of policyNames) {
    const attained = (rate: number) => {
      const { requests, options } = azureSetting(entries, rate);
      return shareWithin(simulate(requests, { ...options, policy }));
    };
    let low = 0.5;
    let high = 16;
    while (high / low > 1.02) {
      const middle = Math.sqrt(low * high);
      if (attained(middle) >= 0.9) low = middle;
      else high = middle;
    }
    console.log(`    ${policy.padEnd(12)} ${low.toFixed(2)} times the trace's rate`);
  }
}

mooncake();
for (const name of ['code', 'conv'] as const) azure(name);
