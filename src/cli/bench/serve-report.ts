// Owns how the result of `xllm bench serve` reads in a terminal.
import type { Distribution, RequestRecord, Summary } from './metrics.ts';
import { type Cell, formatPairs, formatTable } from './table.ts';

const LATENCIES = [
  ['TTFT', 'ttftMs'],
  ['TPOT', 'tpotMs'],
  ['ITL', 'itlMs'],
  ['E2EL', 'e2elMs'],
  ['client queue', 'queueMs'],
] as const;

function latencyRow(label: string, values: Distribution | null): Cell[] {
  if (values === null) return [label, null, null, null, null, null];
  return [label, values.mean, values.std, values.median, values.p90, values.p99];
}

/** How often each error came, most frequent first. */
export function countErrors(records: readonly RequestRecord[]): { readonly error: string; readonly count: number }[] {
  const counts = new Map<string, number>();
  for (const { outcome, error } of records) if (outcome === 'failed') counts.set(error, (counts.get(error) ?? 0) + 1);
  return [...counts].map(([error, count]) => ({ error, count })).sort((a, b) => b.count - a.count);
}

/** Counts and rates, then the table of latencies. */
export function formatSummary(summary: Summary, isStyled: boolean): string {
  const pairs: [string, Cell][] = [
    ['Successful requests', summary.completed],
    ['Failed requests', summary.failed],
  ];
  if (summary.aborted > 0) pairs.push(['Aborted requests', summary.aborted]);
  pairs.push(
    ['Duration (s)', summary.durationMs / 1000],
    ['Input tokens', summary.promptTokens],
    ['  of them cached', summary.cachedTokens],
    ['Output tokens', summary.outputTokens],
    ['Requests/s', summary.requestsPerS],
  );
  if (summary.goodputPerS !== null) pairs.push(['Good requests/s', summary.goodputPerS]);
  pairs.push(
    ['Output tokens/s', summary.outputTokensPerS],
    ['  peak of a second', summary.peakOutputTokensPerS],
    ['Total tokens/s', summary.totalTokensPerS],
    ['Peak concurrency', summary.peakConcurrency],
  );
  const rows = LATENCIES.map(([label, key]) => latencyRow(label, summary[key]));
  return `${formatPairs(pairs)}\n${formatTable(['ms', 'mean', 'std', 'median', 'p90', 'p99'], rows, isStyled)}`;
}
