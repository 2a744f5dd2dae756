// Owns what a comparison measures: loads, and the one figure that each yields (more is better).
import type { Summary } from './metrics.ts';
import type { ServerShape } from './peers/peer.ts';
import { type BenchRequest, promptMaker, randomRequests } from './prompts.ts';
import { seededRandom, streamSeed } from './random.ts';
import type { BoundedLoad } from './work.ts';

/** What every kind of load has. */
interface ScenarioBase {
  readonly id: string;
  readonly title: string;
  readonly unit: string;
  readonly shape: ServerShape;
  readonly maxConcurrency: number;
  readonly prefixLen: number;
  readonly inputLen: number;
  readonly outputLen: number;
  /** Prompt tokens per request that must be computed within the time that the figure counts. */
  readonly numPromptCounted: number;
}

/** A fixed number of requests, measured from the first send to the last token. */
export interface FiniteScenario extends ScenarioBase {
  readonly kind: 'finite';
  readonly numRequests: number;
  figure(summary: Summary): number;
}

/** Requests without end, measured in the middle: output tokens per second. */
export interface SteadyScenario extends ScenarioBase {
  readonly kind: 'steady';
  /** The measurement lasts this many times `maxConcurrency` completions, unless its time is up before. */
  readonly numWaves: number;
}

export type Scenario = FiniteScenario | SteadyScenario;

/** All requests of a scenario complete, or there is no figure. */
function meanOf(values: Summary['ttftMs']): number {
  if (values === null) throw new Error('no request completed');
  return values.mean;
}

const decode: FiniteScenario = {
  kind: 'finite',
  id: 'decode',
  title: 'Decode, one stream, 128 in / 128 out (1 / mean TPOT)',
  unit: 'tok/s',
  shape: 'single',
  maxConcurrency: 1,
  numRequests: 3,
  prefixLen: 0,
  inputLen: 128,
  outputLen: 128,
  numPromptCounted: 1, // the token that each step feeds back
  figure: (summary) => 1000 / meanOf(summary.tpotMs),
};

function prefill(inputLen: number, numRequests: number): FiniteScenario {
  return {
    kind: 'finite',
    id: `prefill-${inputLen}`,
    title: `Prefill of ${inputLen.toLocaleString('en')} tokens (prompt / mean TTFT)`,
    unit: 'tok/s',
    shape: 'single',
    maxConcurrency: 1,
    numRequests,
    prefixLen: 0,
    inputLen,
    outputLen: 1,
    numPromptCounted: inputLen,
    figure: (summary) => (inputLen * 1000) / meanOf(summary.ttftMs),
  };
}

function closedLoop(maxConcurrency: number): SteadyScenario {
  return {
    kind: 'steady',
    id: `closed-${maxConcurrency}`,
    title: `Closed loop of ${maxConcurrency}, 256 in / 128 out, steady state (output)`,
    unit: 'tok/s',
    shape: 'batch',
    maxConcurrency,
    numWaves: 4,
    prefixLen: 0,
    inputLen: 256,
    outputLen: 128,
    numPromptCounted: 256,
  };
}

const sharedPrefix: FiniteScenario = {
  kind: 'finite',
  id: 'shared-prefix',
  title: 'Shared prefix of 1,024 tokens, 32 requests, 8 at a time, 64 own in / 32 out (output)',
  unit: 'tok/s',
  shape: 'batch',
  maxConcurrency: 8,
  numRequests: 32,
  prefixLen: 1024,
  inputLen: 64,
  outputLen: 32,
  numPromptCounted: 64 + 1024 / 32, // the prefix once for all
  figure: (summary) => summary.outputTokensPerS,
};

export const scenarios: readonly Scenario[] = [
  decode,
  prefill(512, 4),
  prefill(2048, 2),
  ...[1, 2, 4, 8, 16, 32].map(closedLoop),
  sharedPrefix,
];

/** The load that bounds a scenario's figure. */
export function boundedLoad(scenario: Scenario): BoundedLoad {
  const { maxConcurrency, numPromptCounted, prefixLen, inputLen, outputLen } = scenario;
  return {
    concurrency: maxConcurrency,
    numPrompt: numPromptCounted,
    numOutput: outputLen,
    meanContext: prefixLen + inputLen + outputLen / 2,
  };
}

/** Best output rate over the closed loops whose mean TPOT keeps a limit. */
export interface LimitedRow {
  readonly id: string;
  readonly title: string;
  readonly unit: string;
  readonly tpotMs: number;
}

export const limitedRows: readonly LimitedRow[] = [50, 100].map((tpotMs) => ({
  id: `tpot-${tpotMs}`,
  title: `Output under a mean TPOT of ${tpotMs} ms, best concurrency`,
  unit: 'tok/s',
  tpotMs,
}));

/** The closed loops, from their samples' ids. */
export const isClosedLoop = (scenarioId: string): boolean => scenarioId.startsWith('closed-');

/** Prompts of one sample: the same for every system, new for every round and attempt, so that no cache helps. */
export function scenarioRequests(scenario: FiniteScenario, vocabSize: number, sample: string): BenchRequest[] {
  return drawRequests(scenario, scenario.numRequests, vocabSize, sample);
}

/** Request `index` of an endless sample. */
export function steadyRequest(
  scenario: SteadyScenario,
  vocabSize: number,
  sample: string,
  index: number,
): BenchRequest {
  return drawRequests(scenario, 1, vocabSize, `${sample} ${index}`)[0]!;
}

function drawRequests(
  { id, inputLen, outputLen, prefixLen }: ScenarioBase,
  count: number,
  vocabSize: number,
  sample: string,
): BenchRequest[] {
  return randomRequests(
    { count, inputLen, outputLen, rangeRatio: 0, prefixLen },
    promptMaker('ids', vocabSize)(streamSeed(0, `${id} ${sample}`)),
    seededRandom(0),
  );
}
