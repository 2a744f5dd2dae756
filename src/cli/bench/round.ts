// Owns one round of a comparison: every system in turn, each scenario sampled until the machine was quiet meanwhile.
import { systemClock } from './clock.ts';
import type { Sample } from './compare-result.ts';
import { CpuMeter } from './cpu-meter.ts';
import { runLoad } from './load.ts';
import { summarise } from './metrics.ts';
import type { PreparedPeer, ServerShape, StepTotals } from './peers/peer.ts';
import { type RunningServer, startServer } from './peers/server.ts';
import type { BenchRequest } from './prompts.ts';
import {
  type FiniteScenario,
  type Scenario,
  type SteadyScenario,
  scenarioRequests,
  steadyRequest,
} from './scenarios.ts';
import { runSteady, summariseSteady } from './steady.ts';
import { StreamClient } from './stream-client.ts';
import { endpointUrl, firstModel, requestBody } from './target.ts';

export interface RoundSettings {
  readonly scenarios: readonly Scenario[];
  readonly vocabSize: number;
  readonly threads: number;
  readonly maxForeignCores: number;
  readonly maxAttempts: number;
  /** Longest time that a steady loop is counted. */
  readonly sampleS: number;
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

const REQUEST_TIMEOUT_MS = 600_000;
/** For a server to notice that the last steady loop's requests were given up. */
const SETTLE_MS = 500;

export interface RoundSink {
  onSample(sample: Sample): void;
  /** Attempts thrown away because other processes used a core. */
  onRejected(count: number): void;
}

/**
 * Runs the scenarios of one shape on every system before those of the next shape, so that rivals' samples lie close
 * together in time; a system that is started in the same way for both runs all of them at once. `isWanted`: whether a
 * system is measured in a scenario.
 */
export async function runRound(
  round: number,
  order: readonly PreparedPeer[],
  isWanted: (system: string, scenario: Scenario) => boolean,
  settings: RoundSettings,
  sink: RoundSink,
): Promise<void> {
  for (const pass of ['single', 'batch'] satisfies ServerShape[]) {
    for (const peer of order) {
      const scenarios = settings.scenarios.filter(
        (scenario) =>
          isWanted(peer.name, scenario) && (hasOneShape(peer, settings.threads) ? 'single' : scenario.shape) === pass,
      );
      if (scenarios.length === 0) continue;
      await using server = await startServer(peer, { shape: pass, threads: settings.threads }, settings.signal);
      const model = await firstModel(server.url, {}, settings.signal);
      const target: Target = { peer, server, model };
      await warmUp(target, settings);
      for (const scenario of scenarios) {
        const { sample, numRejected } = await sampleQuietly(target, scenario, round, settings);
        sink.onRejected(numRejected);
        sink.onSample(sample);
        settings.log(describe(sample, scenario));
      }
    }
  }
}

function hasOneShape(peer: PreparedPeer, threads: number): boolean {
  const [single, batch] = (['single', 'batch'] as const).map((shape) =>
    JSON.stringify(peer.command({ shape, port: 0, threads })),
  );
  return single === batch;
}

interface Target {
  readonly peer: PreparedPeer;
  readonly server: RunningServer;
  readonly model: string;
}

/** One short request: graphs, buffers and caches are built before anything counts. */
async function warmUp(target: Target, settings: RoundSettings): Promise<void> {
  await measureFinite(target, warmUpScenario, 'warm-up', settings);
}

const warmUpScenario: FiniteScenario = {
  kind: 'finite',
  id: 'warm-up',
  title: '',
  unit: '',
  shape: 'single',
  maxConcurrency: 1,
  numRequests: 1,
  prefixLen: 0,
  inputLen: 64,
  outputLen: 8,
  numPromptCounted: 64,
  figure: ({ outputTokensPerS }) => outputTokensPerS,
};

function describe({ system, round, value, foreignCores, isDisturbed }: Sample, { id, unit }: Scenario): string {
  const figure = value === null ? 'failed' : `${value.toFixed(1)} ${unit}`;
  const noise = isDisturbed ? `, disturbed: others used ${foreignCores.toFixed(2)} cores` : '';
  return `round ${round + 1}, ${id}, ${system}: ${figure}${noise}`;
}

/**
 * Measures until a sample is quiet, at most `maxAttempts` times; then the quietest counts, marked. Every attempt has new
 * prompts of the same lengths: the old ones may be cached by now.
 */
async function sampleQuietly(
  target: Target,
  scenario: Scenario,
  round: number,
  settings: RoundSettings,
): Promise<{ readonly sample: Sample; readonly numRejected: number }> {
  let best: Omit<Sample, 'isDisturbed'> | null = null;
  for (let attempt = 0; ; attempt++) {
    const measured = await measure(target, scenario, `${round} ${attempt}`, settings);
    const sample = { scenario: scenario.id, system: target.peer.name, round, ...measured };
    if (best === null || sample.foreignCores < best.foreignCores) best = sample;
    const isQuiet = sample.foreignCores <= settings.maxForeignCores;
    if (isQuiet) return { sample: { ...sample, isDisturbed: false }, numRejected: attempt };
    if (attempt + 1 === settings.maxAttempts) return { sample: { ...best, isDisturbed: true }, numRejected: attempt };
  }
}

type Measured = Omit<Sample, 'scenario' | 'system' | 'round' | 'isDisturbed'>;

async function measure(
  target: Target,
  scenario: Scenario,
  sampleName: string,
  settings: RoundSettings,
): Promise<Measured> {
  const { peer, server } = target;
  const stepsBefore = await peer.stepTotals(server.url, settings.signal);
  const meter = new CpuMeter();
  const figures =
    scenario.kind === 'finite'
      ? await measureFinite(target, scenario, sampleName, settings)
      : await measureSteady(target, scenario, sampleName, settings);
  const foreignCores = meter.foreignCores();
  settings.signal.throwIfAborted();
  const stepsAfter = await peer.stepTotals(server.url, settings.signal);
  return { ...figures, eventLoopUsPerStep: costPerStep(stepsBefore, stepsAfter), foreignCores };
}

type Figures = Omit<Measured, 'eventLoopUsPerStep' | 'foreignCores'>;

async function measureFinite(
  target: Target,
  scenario: FiniteScenario,
  sampleName: string,
  { vocabSize, signal }: RoundSettings,
): Promise<Figures> {
  const requests = scenarioRequests(scenario, vocabSize, sampleName);
  const bodies = requests.map((request) => bodyOf(target, request));
  const client = clientOf(target);
  const plan = {
    numRequests: requests.length,
    arrivalMs: new Float64Array(requests.length),
    maxConcurrency: scenario.maxConcurrency,
  };
  const load = await runLoad(
    plan,
    (index, queueMs) => client.send(bodies[index]!, requests[index]!.promptTokens, queueMs, signal),
    systemClock,
    signal,
  );
  client.close();
  signal.throwIfAborted();
  const summary = summarise(load.records, load.durationMs);
  return {
    // A system that drops requests has less to do: no figure then.
    value: summary.failed > 0 ? null : scenario.figure(summary),
    numFailed: summary.failed,
    ttftMs: summary.ttftMs?.mean ?? null,
    tpotMs: summary.tpotMs?.mean ?? null,
    numWaves: null,
  };
}

async function measureSteady(
  target: Target,
  scenario: SteadyScenario,
  sampleName: string,
  { vocabSize, sampleS, signal }: RoundSettings,
): Promise<Figures> {
  const { maxConcurrency: concurrency, outputLen, numWaves } = scenario;
  const client = clientOf(target);
  const load = await runSteady(
    { concurrency, outputLen, numCompletions: numWaves * concurrency, maxMs: sampleS * 1000 },
    (index, maxTokens, ending, onFirstToken) => {
      const request = steadyRequest(scenario, vocabSize, sampleName, index);
      return client.send(bodyOf(target, { ...request, maxTokens }), request.promptTokens, 0, ending, onFirstToken);
    },
    systemClock,
    signal,
  );
  client.close();
  await systemClock.sleep(SETTLE_MS, signal);
  const summary = summariseSteady(load);
  const numFailed = load.records.filter(({ outcome }) => outcome === 'failed').length;
  return {
    value: numFailed > 0 ? null : summary.outputTokensPerS,
    numFailed,
    ttftMs: summary.ttftMs,
    tpotMs: summary.tpotMs,
    numWaves: summary.numCompletions / concurrency,
  };
}

function bodyOf({ model }: Target, request: BenchRequest): string {
  return requestBody(request, { endpoint: 'completions', model, temperature: 0, isEosIgnored: true, extra: {} });
}

function clientOf({ peer, server }: Target): StreamClient {
  const target = {
    url: endpointUrl(server.url, 'completions'),
    headers: {},
    isKeepAlive: peer.isKeepAlive,
    timeoutMs: REQUEST_TIMEOUT_MS,
  };
  return new StreamClient(target, systemClock);
}

function costPerStep(before: StepTotals | null, after: StepTotals | null): number | null {
  if (before === null || after === null || after.steps === before.steps) return null;
  return (after.eventLoopCpuUs - before.eventLoopCpuUs) / (after.steps - before.steps);
}
