// Owns the settings under which routing policies are compared: instances, traces as requests, objectives.
import { TRACE_BLOCK_TOKENS, type TraceEntry } from '../../src/cli/bench/traces.ts';
import { type SimOptions, type SimRequest, type SimResult, simulate } from './simulate.ts';

/** Of the order of an 8B model on one data-centre GPU: 13,000 prompt tokens a second, 10 ms for a small decode step. */
const stepTime = { constantMs: 8, tokenMs: 0.06, seqMs: 0.05, contextMs: 1e-4, pairMs: 2e-7 };
export const objectives = { ttftSloMs: 2_000, tpotSloMs: 50 };
export const numInstances = 4;

const instance = {
  stepTime,
  maxNumSeqs: 128,
  // A step with a full chunk takes 39 ms: below the objective per token.
  maxNumBatchedTokens: 512,
  longPrefillThreshold: 256,
};

export interface Setting {
  readonly requests: readonly SimRequest[];
  readonly options: Omit<SimOptions, 'policy'>;
}

/** `share`: of the trace's distinct blocks, what all caches together hold; `rate`: of the trace's own. */
export function mooncakeSetting(entries: readonly TraceEntry[], share: number, rate: number): Setting {
  const numKvBlocks = Math.ceil((numDistinctBlocks(entries) * share) / numInstances);
  const limits = { blockTokens: TRACE_BLOCK_TOKENS, numKvBlocks, maxModelLen: 131_072 };
  return setting(entries, rate, limits);
}

export function numDistinctBlocks(entries: readonly TraceEntry[]): number {
  return new Set(entries.flatMap(({ blockIds }) => blockIds)).size;
}

export function azureSetting(entries: readonly TraceEntry[], rate: number): Setting {
  return setting(entries, rate, { blockTokens: 16, numKvBlocks: 20_000, maxModelLen: 16_384 });
}

/** What one cache as large as all together would hit: one instance that is never busy for long. */
export function sharedCache(requests: readonly SimRequest[], options: Omit<SimOptions, 'policy'>): SimResult {
  return simulate(requests, {
    ...options,
    policy: 'round-robin',
    numInstances: 1,
    instance: {
      ...options.instance,
      numKvBlocks: options.instance.numKvBlocks * options.numInstances,
      maxNumSeqs: 512,
      maxNumBatchedTokens: 2_048,
      stepTime: { ...stepTime, constantMs: 2, tokenMs: 0.01 },
    },
  });
}

/** Share of the requests within both objectives. */
export function shareWithin({ ttftMs, tpotMs }: SimResult): number {
  const { ttftSloMs, tpotSloMs } = objectives;
  const numMet = ttftMs.reduce((count, ms, i) => count + (ms <= ttftSloMs && tpotMs[i]! <= tpotSloMs ? 1 : 0), 0);
  return numMet / ttftMs.length;
}

type Limits = Pick<SimOptions['instance'], 'blockTokens' | 'numKvBlocks' | 'maxModelLen'>;

function setting(entries: readonly TraceEntry[], rate: number, limits: Limits): Setting {
  const requests = entries.map((entry, i) => ({
    atMs: entry.atMs / rate,
    promptIds: promptOf(entry, i),
    maxTokens: Math.max(1, entry.outputLen),
  }));
  return { requests, options: { numInstances, ...objectives, instance: { ...instance, ...limits } } };
}

/** Equal block ids are equal tokens; what the trace does not say is nobody else's. */
function promptOf({ inputLen, blockIds }: TraceEntry, index: number): Int32Array {
  const ids = new Int32Array(inputLen);
  for (let i = 0; i < inputLen; i++) {
    const seed = blockIds[Math.floor(i / TRACE_BLOCK_TOKENS)] ?? 0x40000000 + index;
    ids[i] = (Math.imul(seed, 0x9e3779b1) ^ Math.imul(i, 0x85ebca6b)) >>> 8;
  }
  return ids;
}
