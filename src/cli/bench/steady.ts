// Owns the steady state of a closed loop: how it is reached, and what is counted in it.
// A loop that starts all at once runs in waves: all prompts, then all outputs. So the first requests are of rising
// length, which spreads the later ones; counting begins once every place has had a token, and ends before the loop does.
import type { BenchClock } from './clock.ts';
import { distribution, type RequestRecord } from './metrics.ts';

export interface SteadyPlan {
  readonly concurrency: number;
  readonly outputLen: number;
  /** Counting ends after this many completions, */
  readonly numCompletions: number;
  /** or after this time. */
  readonly maxMs: number;
}

/** Sends request `index` for `maxTokens`. Must not reject. */
export type SteadySend = (
  index: number,
  maxTokens: number,
  signal: AbortSignal,
  onFirstToken: () => void,
) => Promise<RequestRecord>;

export interface SteadyLoad {
  /** All requests; those running at the end are `aborted`. */
  readonly records: readonly RequestRecord[];
  /** The time that counts; empty when it never began. */
  readonly openMs: number;
  readonly closeMs: number;
}

/** Runs until enough is counted, a request fails, or `signal` is aborted. */
export async function runSteady(
  plan: SteadyPlan,
  send: SteadySend,
  clock: BenchClock,
  signal: AbortSignal,
): Promise<SteadyLoad> {
  const stop = new AbortController();
  const ending = AbortSignal.any([signal, stop.signal]);
  const records: RequestRecord[] = [];
  let openMs = Infinity;
  let closeMs = 0;
  let numPlacesWithoutToken = plan.concurrency;
  let numCompletions = 0;
  /** The one that ends the counting, once it has begun. */
  const timers: Promise<void>[] = [];
  let nextIndex = 0;

  function end(): void {
    closeMs = clock.now();
    stop.abort();
  }

  function onPlaceStarted(): void {
    if (--numPlacesWithoutToken > 0) return;
    openMs = clock.now();
    const isUp = clock.sleep(plan.maxMs, ending).then(end, (error: unknown) => {
      if (!ending.aborted) throw error;
    });
    timers.push(isUp);
  }

  async function keepBusy(place: number): Promise<void> {
    let maxTokens = Math.ceil(((place + 1) / plan.concurrency) * plan.outputLen);
    let onFirstToken = onPlaceStarted;
    while (!ending.aborted) {
      const record = await send(nextIndex++, maxTokens, ending, onFirstToken);
      records.push(record);
      if (record.outcome === 'ok' && openMs < Infinity) numCompletions++;
      const isEnough = record.outcome === 'failed' || numCompletions === plan.numCompletions;
      if (isEnough && !ending.aborted) end();
      maxTokens = plan.outputLen;
      onFirstToken = () => {};
    }
  }

  await Promise.all(Array.from({ length: plan.concurrency }, (_, place) => keepBusy(place)));
  await Promise.all(timers);
  return { records, openMs: Math.min(openMs, closeMs), closeMs };
}

export interface SteadySummary {
  /** null when nothing was counted. */
  readonly outputTokensPerS: number | null;
  /** Mean gap between tokens: in a steady state, what TPOT averages to. */
  readonly tpotMs: number | null;
  /** Mean, of first tokens while counting. */
  readonly ttftMs: number | null;
  /** Completions while counting. */
  readonly numCompletions: number;
}

/**
 * Counts chunks within the time that counts, and weighs them by the tokens per chunk of complete requests: some servers
 * join tokens, or send none for one that ends no character.
 */
export function summariseSteady({ records, openMs, closeMs }: SteadyLoad): SteadySummary {
  const isCounted = (timeMs: number): boolean => timeMs > openMs && timeMs <= closeMs;
  const complete = records.filter(({ outcome }) => outcome === 'ok');
  const numChunks = complete.reduce((sum, { chunkMs }) => sum + chunkMs.length, 0);
  const numTokens = complete.reduce((sum, { outputTokens }) => sum + outputTokens, 0);
  const tokensPerChunk = numChunks > 0 ? numTokens / numChunks : 1;
  const counted = records.map(({ chunkMs }) => chunkMs.filter(isCounted));
  const numCounted = counted.reduce((sum, times) => sum + times.length, 0);
  const spans = counted.filter((times) => times.length > 1);
  const numGaps = spans.reduce((sum, times) => sum + times.length - 1, 0);
  const spanMs = spans.reduce((sum, times) => sum + times.at(-1)! - times[0]!, 0);
  const ttfts = records.flatMap(({ startMs, chunkMs: [first] }) =>
    first !== undefined && isCounted(first) ? [first - startMs] : [],
  );
  return {
    outputTokensPerS: closeMs > openMs ? (numCounted * tokensPerChunk * 1000) / (closeMs - openMs) : null,
    tpotMs: numGaps > 0 ? spanMs / numGaps / tokensPerChunk : null,
    ttftMs: distribution(ttfts)?.mean ?? null,
    numCompletions: complete.filter(({ chunkMs }) => isCounted(chunkMs.at(-1) ?? 0)).length,
  };
}
