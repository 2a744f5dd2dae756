// Owns how a step's rows are gathered into calls of ggml's attention, all padded to sizes that come back. Pure.
import { type CacheGroup, firstReadPosition } from '../kv/cache-group.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { roundUpBlocks, roundUpTokens } from './buckets.ts';

/** Rows of one call: all decodes together, or a chunk of one prefill. */
export interface Call {
  readonly rows: readonly CallRow[];
  readonly numQueries: number;
  /** [G] KV blocks that are gathered for each row. */
  readonly numBlocks: readonly number[];
}

export interface CallRow {
  readonly row: number;
  readonly firstToken: number;
  readonly numTokens: number;
}

/** In the deterministic setting: below 64 queries ggml sums position by position. Measured best of 16, 32, 48. */
const deterministicQueries = 48;
/** Rows with one token share a call; others get calls of their own, cut where the deterministic setting asks for it. */
export function planCalls(
  plan: StepPlan,
  groups: readonly CacheGroup[],
  layouts: readonly { readonly blockTokens: number }[],
  deterministic: boolean,
): Call[] {
  const decodes: CallRow[] = [];
  const chunks: CallRow[] = [];
  for (let row = 0; row < plan.numRows; row++) {
    const firstToken = plan.rowStart[row]!;
    const numTokens = plan.rowStart[row + 1]! - firstToken;
    if (numTokens === 1) decodes.push({ row, firstToken, numTokens });
    const most = deterministic ? deterministicQueries : numTokens;
    for (let done = 0; numTokens > 1 && done < numTokens; done += most) {
      chunks.push({ row, firstToken: firstToken + done, numTokens: Math.min(most, numTokens - done) });
    }
  }
  const call = (rows: readonly CallRow[], numQueries: number): Call => ({
    rows,
    numQueries,
    numBlocks: groups.map((group, g) => {
      const blockTokens = layouts[g]?.blockTokens ?? 1;
      return roundUpBlocks(Math.max(...rows.map((each) => blockRange(plan, group, blockTokens, each).count)));
    }),
  });
  const calls = chunks.map((chunk) => {
    const padded = Math.max(2, roundUpTokens(chunk.numTokens));
    return call([chunk], deterministic ? Math.min(padded, deterministicQueries) : padded);
  });
  // A lone query sums in parts that depend on the number of threads.
  if (decodes.length > 0) calls.unshift(call(decodes, deterministic && decodes.length === 1 ? 2 : 1));
  return calls;
}

/** Blocks that any of a row's tokens in this call reads. */
export function blockRange(
  plan: StepPlan,
  group: CacheGroup,
  blockTokens: number,
  row: CallRow,
): { first: number; count: number } {
  const from = firstReadPosition(group.kind, plan.positions[row.firstToken]!);
  const last = plan.positions[row.firstToken + row.numTokens - 1]!;
  const first = Math.floor(from / blockTokens);
  return { first, count: Math.floor(last / blockTokens) + 1 - first };
}
