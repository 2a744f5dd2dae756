// Owns what a comparison measures: loads, and the one figure that each yields (more is better).
import type { Summary } from './metrics.ts';
import type { ServerShape } from './peers/peer.ts';
import { type BenchRequest, promptMaker, randomRequests } from './prompts.ts';
import { seededRandom, streamSeed } from './random.ts';

export interface Scenario {
  readonly id: string;
  readonly title: string;
  readonly unit: string;
  readonly shape: ServerShape;
  readonly maxConcurrency: number;
  readonly numRequests: number;
  readonly prefixLen: number;
  readonly inputLen: number;
  readonly outputLen: number;
  figure(summary: Summary): number;
}

/** All requests of a scenario complete, or there is no figure. */
function meanOf(values: Summary['ttftMs']): number {
  if (values === null) throw new Error('no request completed');
  return values.mean;
}

const decode: Scenario = {
  id: 'decode',
  title: 'Decode, one stream, 128 in / 128 out (1 / mean TPOT)',
  unit: 'tok/s',
  shape: 'single',
  maxConcurrency: 1,
  numRequests: 3,
  prefixLen: 0,
  inputLen: 128,
  outputLen: 128,
  figure: (summary) => 1000 / meanOf(summary.tpotMs),
};

function prefill(inputLen: number, numRequests: number): Scenario {
  return {
    id: `prefill-${inputLen}`,
    title: `Prefill of ${inputLen} tokens (prompt / mean TTFT)`,
    unit: 'tok/s',
    shape: 'single',
    maxConcurrency: 1,
    numRequests,
    prefixLen: 0,
    inputLen,
    outputLen: 1,
    figure: (summary) => (inputLen * 1000) / meanOf(summary.ttftMs),
  };
}

/** Two waves, so that prefills meet running decodes. */
function closedLoop(maxConcurrency: number): Scenario {
  return {
    id: `closed-${maxConcurrency}`,
    title: `Closed loop of ${maxConcurrency}, 256 in / 128 out (output)`,
    unit: 'tok/s',
    shape: 'batch',
    maxConcurrency,
    numRequests: Math.max(3, 2 * maxConcurrency),
    prefixLen: 0,
    inputLen: 256,
    outputLen: 128,
    figure: (summary) => summary.outputTokensPerS,
  };
}

const sharedPrefix: Scenario = {
  id: 'shared-prefix',
  title: 'Shared prefix of 1,024 tokens, 32 requests, 8 at a time, 64 own in / 32 out (output)',
  unit: 'tok/s',
  shape: 'batch',
  maxConcurrency: 8,
  numRequests: 32,
  prefixLen: 1024,
  inputLen: 64,
  outputLen: 32,
  figure: (summary) => summary.outputTokensPerS,
};

export const scenarios: readonly Scenario[] = [
  decode,
  prefill(512, 4),
  prefill(2048, 2),
  closedLoop(1),
  closedLoop(8),
  closedLoop(16),
  closedLoop(32),
  sharedPrefix,
];

/** What is measured unless asked otherwise. */
export const defaultScenarioIds = scenarios.map(({ id }) => id).filter((id) => id !== 'closed-32');

/** Prompts of one sample: the same for every system, new for every round and attempt, so that no cache helps. */
export function scenarioRequests(scenario: Scenario, vocabSize: number, sample: string): BenchRequest[] {
  return randomRequests(
    {
      count: scenario.numRequests,
      inputLen: scenario.inputLen,
      outputLen: scenario.outputLen,
      rangeRatio: 0,
      prefixLen: scenario.prefixLen,
    },
    promptMaker('ids', vocabSize)(streamSeed(0, `${scenario.id} ${sample}`)),
    seededRandom(0),
  );
}
