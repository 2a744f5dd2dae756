// Compares routing policies on request traces: real registry, router, scheduler and KV cache, in virtual time.
// Run: node bench/routing.ts FOLDER-OF-TRACES [requests]
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseTrace, TRACE_BLOCK_TOKENS, type TraceEntry } from '../src/cli/bench/traces.ts';
import { policyNames } from '../src/service/routing/policies.ts';
import { type SimRequest, type SimResult, simulate } from './routing/simulate.ts';

const folder = process.argv[2];
if (folder === undefined) throw new Error('name the folder that holds azure-llm-2023/ and mooncake-fast25/');
const numRequests = Number(process.argv[3] ?? 3_000);

/** Of the order of an 8B model on one data-centre GPU: 13,000 prompt tokens a second, 10 ms for a small decode step. */
const stepTime = { constantMs: 8, tokenMs: 0.06, seqMs: 0.05, contextMs: 1e-4, pairMs: 2e-7 };
const numInstances = 4;
/** Of the trace's own rate: half of what the instances could do. */
const MOONCAKE_RATE = 0.7;
const slo = { ttftSloMs: 2_000, tpotSloMs: 50 };

const read = (path: string) => parseTrace(readFileSync(join(folder, path), 'utf8'), path).slice(0, numRequests);
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
const quantile = (values: readonly number[], share: number) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))] ?? Number.NaN;

/** Equal block ids are equal tokens; what the trace does not say is nobody else's. */
function promptOf({ inputLen, blockIds }: TraceEntry, index: number): Int32Array {
  const ids = new Int32Array(inputLen);
  for (let i = 0; i < inputLen; i++) {
    const block = blockIds[Math.floor(i / TRACE_BLOCK_TOKENS)];
    const seed = block === undefined ? 0x40000000 + index : block;
    ids[i] = (Math.imul(seed, 0x9e3779b1) ^ Math.imul(i, 0x85ebca6b)) >>> 8;
  }
  return ids;
}

function requestsOf(entries: readonly TraceEntry[], rate: number): SimRequest[] {
  return entries.map((entry, i) => ({
    atMs: entry.atMs / rate,
    promptIds: promptOf(entry, i),
    maxTokens: Math.max(1, entry.outputLen),
  }));
}

const instance = (blockTokens: number, numKvBlocks: number, maxModelLen: number) => ({
  stepTime,
  blockTokens,
  numKvBlocks,
  maxNumSeqs: 128,
  maxNumBatchedTokens: 512,
  longPrefillThreshold: 256,
  maxModelLen,
});

function mooncake(): void {
  const entries = read('mooncake-fast25/conversation.first-half.jsonl');
  const distinct = new Set(entries.flatMap(({ blockIds }) => blockIds)).size;
  console.log(
    `\nMooncake conversation, ${entries.length} requests, ${numInstances} instances, blocks of ${TRACE_BLOCK_TOKENS}`,
  );
  for (const share of [0.25, 1]) {
    const total = Math.ceil(distinct * share);
    const options = {
      numInstances,
      ...slo,
      instance: instance(TRACE_BLOCK_TOKENS, Math.ceil(total / numInstances), 131_072),
    };
    const requests = requestsOf(entries, MOONCAKE_RATE);
    const shared = simulate(requests, {
      ...options,
      policy: 'round-robin',
      numInstances: 1,
      instance: {
        ...instance(TRACE_BLOCK_TOKENS, total, 131_072),
        stepTime: { ...stepTime, constantMs: 2, tokenMs: 0.01 },
        maxNumSeqs: 512,
      },
    });
    console.log(
      `  caches hold ${share * 100} % of ${distinct} blocks; one cache of that size would hit ${percent(shared.hitRate)}`,
    );
    for (const policy of policyNames) {
      const result = simulate(requests, { ...options, policy });
      const ttft = [...result.ttftMs].filter((ms) => !Number.isNaN(ms));
      console.log(
        `    ${policy.padEnd(12)} hits ${percent(result.hitRate)}  TTFT mean ${mean(ttft).toFixed(0)} ms, p99 ${quantile(ttft, 0.99).toFixed(0)} ms, ` +
          `prediction off by ${percent(result.ttftError)}`,
      );
    }
  }
}

function azure(name: 'code' | 'conv'): void {
  const entries = read(`azure-llm-2023/${name}.first-half.csv`);
  console.log(
    `\nAzure ${name}, ${entries.length} requests: share within TTFT ${slo.ttftSloMs} ms and TPOT ${slo.tpotSloMs} ms, by rate`,
  );
  const options = { numInstances, ...slo, instance: instance(16, 20_000, 16_384) };
  for (const policy of policyNames) {
    const attained = (rate: number) => within(simulate(requestsOf(entries, rate), { ...options, policy }));
    // The highest rate (in multiples of the trace's own) at which nine of ten are within both objectives.
    let low = 0.25;
    let high = 16;
    while (high / low > 1.03) {
      const middle = Math.sqrt(low * high);
      if (attained(middle) >= 0.9) low = middle;
      else high = middle;
    }
    console.log(`    ${policy.padEnd(12)} ${low.toFixed(2)} times the trace's rate`);
  }
}

function within({ ttftMs, tpotMs }: SimResult): number {
  const met = ttftMs.reduce((count, ms, i) => count + (ms <= slo.ttftSloMs && tpotMs[i]! <= slo.tpotSloMs ? 1 : 0), 0);
  return met / ttftMs.length;
}

const percent = (share: number) => `${(share * 100).toFixed(1)} %`;

mooncake();
for (const name of ['code', 'conv'] as const) azure(name);
