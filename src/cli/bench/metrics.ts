// Owns what a load run's records mean: latency, throughput and goodput as vLLM's `bench serve` defines them.
// Source: vllm/benchmarks/serve.py (`calculate_metrics`) and lib/endpoint_request_func.py. Two differences, both
// against flattery: a chat stream's opening chunk that only names the role is no token (see stream-client.ts), and
// without a usage report output tokens are counted as chunks, where vLLM would load a tokenizer.

/** One request as its client saw it; all times in ms on one monotonic clock. */
export interface RequestRecord {
  /** `aborted`: cut off by the end of the run, neither completed nor failed. */
  readonly outcome: 'ok' | 'failed' | 'aborted';
  /** Why it failed; empty otherwise. */
  readonly error: string;
  /** When it was sent. */
  readonly startMs: number;
  /** How long it waited for a free place (`--max-concurrency`) before it was sent. */
  readonly queueMs: number;
  /** Arrival of every chunk that carries a choice: usually one token each. */
  readonly chunkMs: readonly number[];
  /** From the server's usage report, else the length that was sent. */
  readonly promptTokens: number;
  /** Part of the prompt that the server took from its cache, where it says so. */
  readonly cachedTokens: number;
  /** From the server's usage report, else the number of chunks. */
  readonly outputTokens: number;
  readonly isUsageReported: boolean;
}

/** Limits in ms; a request is good when it meets every limit given. */
export interface GoodputLimits {
  readonly ttft?: number;
  readonly tpot?: number;
  readonly e2el?: number;
}

export interface Distribution {
  readonly count: number;
  readonly mean: number;
  /** Population standard deviation. */
  readonly std: number;
  readonly median: number;
  readonly p90: number;
  readonly p99: number;
}

export interface Summary {
  readonly completed: number;
  readonly failed: number;
  readonly aborted: number;
  readonly durationMs: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Completed requests whose token counts are the client's own, because the server reported none. */
  readonly numWithoutUsage: number;
  readonly requestsPerS: number;
  /** Requests per second that met every limit; null when no limit was given. */
  readonly goodputPerS: number | null;
  readonly outputTokensPerS: number;
  readonly totalTokensPerS: number;
  /** Most chunks in one of the 1-second buckets that start with the first send. */
  readonly peakOutputTokensPerS: number;
  /** Exact, over the half-open intervals [sent, last chunk). */
  readonly peakConcurrency: number;
  /** Send to first chunk. */
  readonly ttftMs: Distribution | null;
  /** (E2EL − TTFT) / (output tokens − 1), over requests with more than one output token. */
  readonly tpotMs: Distribution | null;
  /** Gaps between chunks, pooled over all requests. */
  readonly itlMs: Distribution | null;
  /** Send to last chunk. */
  readonly e2elMs: Distribution | null;
  /** Wait for a free place before the send. */
  readonly queueMs: Distribution | null;
}

/** Percentile with linear interpolation between closest ranks (numpy's default). `sorted` ascending, not empty. */
export function percentile(sorted: ArrayLike<number>, percent: number): number {
  const rank = (percent / 100) * (sorted.length - 1);
  const below = Math.floor(rank);
  const low = sorted[below];
  const high = sorted[Math.ceil(rank)];
  if (low === undefined || high === undefined) throw new RangeError(`percentile ${percent} of ${sorted.length} values`);
  return low + (high - low) * (rank - below);
}

export function median(values: readonly number[]): number {
  return percentile(Float64Array.from(values).sort(), 50);
}

/** null for no values: a mean of nothing is not 0. */
export function distribution(values: readonly number[]): Distribution | null {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  const variance = sorted.reduce((sum, value) => sum + (value - mean) ** 2, 0) / sorted.length;
  return {
    count: sorted.length,
    mean,
    std: Math.sqrt(variance),
    median: percentile(sorted, 50),
    p90: percentile(sorted, 90),
    p99: percentile(sorted, 99),
  };
}

interface Latency {
  readonly ttft: number;
  readonly tpot: number | null;
  readonly e2el: number;
  readonly endMs: number;
}

function latencyOf(record: RequestRecord): Latency {
  const first = record.chunkMs[0];
  const last = record.chunkMs.at(-1);
  if (first === undefined || last === undefined) throw new RangeError('a completed request has at least one chunk');
  const ttft = first - record.startMs;
  const e2el = last - record.startMs;
  const tpot = record.outputTokens > 1 ? (e2el - ttft) / (record.outputTokens - 1) : null;
  return { ttft, tpot, e2el, endMs: last };
}

/** A request with at most one output token has a TPOT of 0 here, as in vLLM. */
function isGood({ ttft, tpot, e2el }: Latency, limits: GoodputLimits): boolean {
  return (
    ttft <= (limits.ttft ?? Infinity) && (tpot ?? 0) <= (limits.tpot ?? Infinity) && e2el <= (limits.e2el ?? Infinity)
  );
}

function gaps(times: readonly number[]): number[] {
  return times.slice(1).map((time, i) => time - times[i]!);
}

function peakPerSecond(chunkMs: readonly number[], originMs: number): number {
  const buckets = new Map<number, number>();
  let peak = 0;
  for (const time of chunkMs) {
    const second = Math.floor((time - originMs) / 1000);
    const count = (buckets.get(second) ?? 0) + 1;
    buckets.set(second, count);
    peak = Math.max(peak, count);
  }
  return peak;
}

/** Largest number of intervals [start, end) that overlap: at equal times a departure precedes an arrival. */
export function peakConcurrency(intervals: readonly (readonly [start: number, end: number])[]): number {
  const events = intervals.flatMap(([start, end]) => [[start, 1] as const, [end, -1] as const]);
  events.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let current = 0;
  let peak = 0;
  for (const [, delta] of events) {
    current += delta;
    peak = Math.max(peak, current);
  }
  return peak;
}

/**
 * Every figure of a run. `durationMs` runs from the start of the load to its last response.
 * Failed and aborted requests are counted and otherwise left out.
 */
export function summarise(records: readonly RequestRecord[], durationMs: number, limits: GoodputLimits = {}): Summary {
  const completed = records.filter((record) => record.outcome === 'ok');
  const latencies = completed.map(latencyOf);
  const chunkMs = completed.flatMap((record) => record.chunkMs);
  const originMs = completed.reduce((least, record) => Math.min(least, record.startMs), Infinity);
  const promptTokens = completed.reduce((sum, record) => sum + record.promptTokens, 0);
  const outputTokens = completed.reduce((sum, record) => sum + record.outputTokens, 0);
  const perS = (count: number): number => (durationMs > 0 ? (count * 1000) / durationMs : 0);
  const numGood = latencies.filter((latency) => isGood(latency, limits)).length;
  return {
    completed: completed.length,
    failed: records.filter((record) => record.outcome === 'failed').length,
    aborted: records.filter((record) => record.outcome === 'aborted').length,
    durationMs,
    promptTokens,
    cachedTokens: completed.reduce((sum, record) => sum + record.cachedTokens, 0),
    outputTokens,
    numWithoutUsage: completed.filter((record) => !record.isUsageReported).length,
    requestsPerS: perS(completed.length),
    goodputPerS: Object.keys(limits).length > 0 ? perS(numGood) : null,
    outputTokensPerS: perS(outputTokens),
    totalTokensPerS: perS(promptTokens + outputTokens),
    peakOutputTokensPerS: peakPerSecond(chunkMs, originMs),
    peakConcurrency: peakConcurrency(completed.map((record, i) => [record.startMs, latencies[i]!.endMs])),
    ttftMs: distribution(latencies.map(({ ttft }) => ttft)),
    tpotMs: distribution(latencies.flatMap(({ tpot }) => (tpot === null ? [] : [tpot]))),
    itlMs: distribution(completed.flatMap((record) => gaps(record.chunkMs))),
    e2elMs: distribution(latencies.map(({ e2el }) => e2el)),
    queueMs: distribution(completed.map((record) => record.queueMs)),
  };
}
