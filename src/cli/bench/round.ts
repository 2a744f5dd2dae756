// Owns one round of a comparison: every system in turn, each scenario sampled until the machine was quiet meanwhile.
import { systemClock } from './clock.ts';
import type { Sample } from './compare-result.ts';
import { CpuMeter } from './cpu-meter.ts';
import { runLoad } from './load.ts';
import { summarise } from './metrics.ts';
import type { PreparedPeer, ServerShape, StepTotals } from './peers/peer.ts';
import { type RunningServer, startServer } from './peers/server.ts';
import { type Scenario, scenarioRequests } from './scenarios.ts';
import { StreamClient } from './stream-client.ts';
import { endpointUrl, firstModel, requestBody } from './target.ts';

export interface RoundSettings {
  readonly scenarios: readonly Scenario[];
  readonly vocabSize: number;
  readonly threads: number;
  readonly maxForeignCores: number;
  readonly maxAttempts: number;
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

const REQUEST_TIMEOUT_MS = 600_000;

/**
 * Runs the scenarios of one shape on every system before those of the next shape, so that rivals' samples lie close
 * together in time. Resolves to the number of rejected attempts; every sample goes to `onSample`.
 */
export async function runRound(
  round: number,
  order: readonly PreparedPeer[],
  settings: RoundSettings,
  onSample: (sample: Sample) => void,
): Promise<number> {
  let numRejected = 0;
  for (const shape of ['single', 'batch'] satisfies ServerShape[]) {
    const scenarios = settings.scenarios.filter((scenario) => scenario.shape === shape);
    if (scenarios.length === 0) continue;
    for (const peer of order) {
      await using server = await startServer(peer, { shape, threads: settings.threads }, settings.signal);
      const model = await firstModel(server.url, {}, settings.signal);
      const target: Target = { peer, server, model };
      await warmUp(target, settings);
      for (const scenario of scenarios) {
        const attempts = await sampleQuietly(target, scenario, round, settings);
        numRejected += attempts.numRejected;
        onSample(attempts.sample);
        settings.log(describe(attempts.sample, scenario));
      }
    }
  }
  return numRejected;
}

interface Target {
  readonly peer: PreparedPeer;
  readonly server: RunningServer;
  readonly model: string;
}

/** One short request: graphs, buffers and caches are built before anything counts. */
async function warmUp(target: Target, settings: RoundSettings): Promise<void> {
  const scenario = { ...settings.scenarios[0]!, id: 'warm-up', numRequests: 1, maxConcurrency: 1, prefixLen: 0 };
  await measure(target, { ...scenario, inputLen: 64, outputLen: 8 }, 'warm-up', settings);
}

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
  { peer, server, model }: Target,
  scenario: Scenario,
  sampleName: string,
  { vocabSize, signal }: RoundSettings,
): Promise<Measured> {
  const requests = scenarioRequests(scenario, vocabSize, sampleName);
  const body = { endpoint: 'completions', model, temperature: 0, isEosIgnored: true, extra: {} } as const;
  const bodies = requests.map((request) => requestBody(request, body));
  const target = {
    url: endpointUrl(server.url, 'completions'),
    headers: {},
    isKeepAlive: peer.isKeepAlive,
    timeoutMs: REQUEST_TIMEOUT_MS,
  };
  const client = new StreamClient(target, systemClock);
  const stepsBefore = await peer.stepTotals(server.url, signal);
  const meter = new CpuMeter();
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
  const foreignCores = meter.foreignCores();
  client.close();
  signal.throwIfAborted();
  const stepsAfter = await peer.stepTotals(server.url, signal);
  const summary = summarise(load.records, load.durationMs);
  return {
    // A system that drops requests has less to do: no figure then.
    value: summary.failed > 0 ? null : scenario.figure(summary),
    numFailed: summary.failed,
    ttftMs: summary.ttftMs?.mean ?? null,
    tpotMs: summary.tpotMs?.mean ?? null,
    eventLoopUsPerStep: costPerStep(stepsBefore, stepsAfter),
    foreignCores,
  };
}

function costPerStep(before: StepTotals | null, after: StepTotals | null): number | null {
  if (before === null || after === null || after.steps === before.steps) return null;
  return (after.eventLoopCpuUs - before.eventLoopCpuUs) / (after.steps - before.steps);
}
