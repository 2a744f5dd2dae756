// Owns the decision how much memory the KV cache gets, and what fits into it. Pure.
import { XllmError } from '../../common/errors.ts';
import { type CacheGroup, maxPagesPerSequence } from './cache-group.ts';
import { pageLayout } from './layout.ts';

/** Share of the available memory that the KV cache may take unless told otherwise. */
const defaultShare = 0.25;
/** Length at which sequences are taken to spend most of their time, where groups compete for memory. */
const typicalTokens = 2048;

export interface MemoryPlanInput {
  readonly groups: readonly CacheGroup[];
  readonly blockTokens: number;
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
  /** Most tokens of one sequence in one step. */
  readonly maxStepTokens: number;
  readonly availableBytes: number;
  /** Asked for by the operator, instead of the share; 0: not. */
  readonly wantedBytes: number;
}

export interface MemoryPlan {
  /** [G] */
  readonly numPages: readonly number[];
  readonly kvBytes: number;
  /** As asked for, or lower: one sequence of this length fits. */
  readonly maxModelLen: number;
  /** What decided the size. */
  readonly limitedBy: 'demand' | 'memory' | 'flag';
  /** Sequences of maxModelLen that fit at one time, rounded down. */
  readonly numFullSequences: number;
  /** Lines for the start-up summary. */
  readonly summary: readonly string[];
}

/** Throws XllmError out_of_memory when not even one block of a sequence fits. */
export function planMemory(input: MemoryPlanInput): MemoryPlan {
  const { groups, blockTokens, maxNumSeqs, maxStepTokens, availableBytes, wantedBytes } = input;
  const budget = Math.floor(wantedBytes > 0 ? wantedBytes : availableBytes * defaultShare);
  const pageBytes = groups.map((group) => pageLayout(group, blockTokens).pageBytes);
  const pagesFor = (numTokens: number): number[] =>
    groups.map(({ kind }) => maxPagesPerSequence(kind, numTokens, blockTokens, maxStepTokens));
  const bytesOf = (pages: readonly number[]): number =>
    pages.reduce((sum, count, g) => sum + count * (pageBytes[g] ?? 0), 0);

  if (bytesOf(pagesFor(blockTokens)) > budget) {
    const needed = formatBytes(bytesOf(pagesFor(blockTokens)));
    throw new XllmError(
      'out_of_memory',
      `the KV cache may take ${formatBytes(budget)} of ${formatBytes(availableBytes)} available, and ${blockTokens} tokens need ${needed}; free memory or set --kv-cache-memory`,
    );
  }
  const maxModelLen = longestFitting(input.maxModelLen, blockTokens, (length) => bytesOf(pagesFor(length)) <= budget);
  const perSequence = pagesFor(maxModelLen);
  const demand = perSequence.map((count) => count * maxNumSeqs);

  let numPages: readonly number[] = demand;
  if (bytesOf(demand) > budget) {
    // Every group can hold one longest sequence; the rest is shared out as sequences of typical length use it.
    const typical = pagesFor(Math.min(maxModelLen, typicalTokens));
    const numTypical = (budget - bytesOf(perSequence)) / bytesOf(typical);
    numPages = perSequence.map((count, g) =>
      Math.min(count + Math.floor((typical[g] ?? 0) * numTypical), demand[g] ?? 0),
    );
  }
  const kvBytes = bytesOf(numPages);
  const limitedBy = bytesOf(demand) <= budget ? 'demand' : wantedBytes > 0 ? 'flag' : 'memory';
  const numFullSequences = Math.min(...numPages.map((count, g) => Math.floor(count / (perSequence[g] ?? 1))));
  return {
    numPages,
    kvBytes,
    maxModelLen,
    limitedBy,
    numFullSequences,
    summary: summarise(input, { numPages, kvBytes, maxModelLen, limitedBy, numFullSequences }),
  };
}

/** Largest length that fits: `wanted`, or else a multiple of the block size. One block is known to fit. */
function longestFitting(wanted: number, blockTokens: number, fits: (length: number) => boolean): number {
  if (fits(wanted)) return wanted;
  let low = 1;
  let high = Math.ceil(wanted / blockTokens);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (fits(middle * blockTokens)) low = middle;
    else high = middle;
  }
  return Math.min(wanted, low * blockTokens);
}

function summarise(input: MemoryPlanInput, plan: Omit<MemoryPlan, 'summary'>): string[] {
  const { groups, blockTokens, maxNumSeqs, availableBytes } = input;
  const reasons = {
    demand: `all that ${maxNumSeqs} sequences of ${plan.maxModelLen} tokens need`,
    memory: `${100 * defaultShare} % of ${formatBytes(availableBytes)} available`,
    flag: 'as set',
  };
  const pools = groups.map(({ name }, g) => `${plan.numPages[g]} blocks${groups.length > 1 ? ` of ${name}` : ''}`);
  const lines = [
    `KV cache ${formatBytes(plan.kvBytes)} (${reasons[plan.limitedBy]}): ${pools.join(', ')}, ${blockTokens} tokens each; ${plan.numFullSequences} sequences of full length`,
  ];
  if (plan.maxModelLen < input.maxModelLen) {
    lines.push(
      `context lowered from ${input.maxModelLen} to ${plan.maxModelLen} tokens: one longer sequence does not fit into the KV cache`,
    );
  }
  return lines;
}

function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.max(0, Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return `${(bytes / 2 ** (10 * power)).toFixed(power > 2 ? 2 : 0)} ${units[power]}`;
}
