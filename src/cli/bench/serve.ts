// Owns `xllm bench serve`: builds the load, runs it against a server, reports what was measured.
import { readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import { BUILD } from '../../contract/protocol.ts';
import { arrivalTimes } from './arrivals.ts';
import { systemClock } from './clock.ts';
import type { BenchIo } from './io.ts';
import { type LoadResult, runLoad } from './load.ts';
import { describeMachine, readCpuinfo, sourceCommit } from './machine.ts';
import { type Summary, summarise } from './metrics.ts';
import { type BenchRequest, fileRequests, promptMaker, randomRequests, traceRequests } from './prompts.ts';
import { seededRandom, streamSeed } from './random.ts';
import { type BenchServeOptions, checkBenchServe, parseGoodput } from './serve-options.ts';
import { countErrors, formatSummary } from './serve-report.ts';
import { StreamClient } from './stream-client.ts';
import { authorisation, type BodyOptions, endpointUrl, firstModel, requestBody } from './target.ts';
import { fitTrace, parseTrace, type TraceFit } from './traces.ts';

const DEFAULT_NUM_PROMPTS = 100;

interface Load {
  readonly requests: readonly BenchRequest[];
  readonly warmups: readonly BenchRequest[];
  readonly arrivalMs: Float64Array;
  readonly traceFit: TraceFit | null;
}

/** Requests and arrival times that the options describe. Reads the trace or prompts file. */
function buildLoad(options: BenchServeOptions): Load {
  const form = options.promptForm ?? (options.endpoint === 'chat' ? 'text' : 'ids');
  const makerFor = promptMaker(form, options.vocabSize);
  const seedOf = (stream: string): number => streamSeed(options.seed, stream);
  const random = (count: number, stream: string): BenchRequest[] =>
    randomRequests(
      {
        count,
        inputLen: options.randomInputLen,
        outputLen: options.randomOutputLen,
        rangeRatio: options.randomRangeRatio,
        prefixLen: options.prefixLen,
      },
      makerFor(seedOf(`${stream} content`)),
      seededRandom(seedOf(`${stream} lengths`)),
    );
  // Prompts of their own: a warm-up must not leave a measured prompt in the server's prefix cache.
  const warmups = random(options.numWarmups, 'warm-up');
  if (options.trace !== undefined) {
    const all = parseTrace(readText(options.trace), basename(options.trace));
    const { entries, fit } = fitTrace(all.slice(0, options.numPrompts), {
      maxInputLen: options.maxInputLen,
      maxOutputLen: options.maxOutputLen,
      speed: options.scale,
    });
    const requests = traceRequests(entries, fit.inputFactor, makerFor, seedOf('trace content'));
    return { requests, warmups, arrivalMs: Float64Array.from(entries, (entry) => entry.atMs), traceFit: fit };
  }
  const count = options.numPrompts ?? DEFAULT_NUM_PROMPTS;
  const requests =
    options.promptsFile === undefined
      ? random(count, 'prompt')
      : fileRequests(readText(options.promptsFile), basename(options.promptsFile), count, options.randomOutputLen);
  const arrivalMs = arrivalTimes(
    count,
    options.requestRate ?? Infinity,
    options.burstiness,
    seededRandom(seedOf('arrivals')),
  );
  return { requests, warmups, arrivalMs, traceFit: null };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new XllmError('usage', `cannot read ${path}: ${String(error)}`, { cause: error });
  }
}

function parseExtraBody(text: string | undefined): Record<string, unknown> {
  if (text === undefined) return {};
  try {
    const value = JSON.parse(text) as unknown;
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value };
  } catch (error) {
    throw new XllmError('usage', `--extra-body is no JSON: ${String(error)}`, { cause: error });
  }
  throw new XllmError('usage', '--extra-body must be a JSON object');
}

/**
 * Runs the benchmark; resolves to the exit status: 0, 1 when no request succeeded, 130 when interrupted (after the
 * partial result). Throws XllmError `usage` for options that make no sense or a server that does not answer.
 */
export async function benchServe(options: BenchServeOptions, io: BenchIo): Promise<number> {
  checkBenchServe(options);
  const extra = parseExtraBody(options.extraBody);
  const load = buildLoad(options);
  const headers = authorisation(io.env);
  const model = options.model ?? (await firstModel(options.url, headers, io.signal));
  const client = new StreamClient(
    {
      url: endpointUrl(options.url, options.endpoint),
      headers,
      isKeepAlive: options.keepAlive,
      timeoutMs: options.timeoutS * 1000,
    },
    systemClock,
  );
  try {
    const body: BodyOptions = {
      endpoint: options.endpoint,
      model,
      temperature: options.temperature,
      isEosIgnored: options.ignoreEos,
      extra,
    };
    await warmUp(client, load.warmups, body, io.signal);
    const cpuBefore = process.cpuUsage();
    const result = await runMain(client, load, body, options, io);
    const { user, system } = process.cpuUsage(cpuBefore);
    return report(result, { options, io, model, traceFit: load.traceFit, clientCpuS: (user + system) / 1e6 });
  } finally {
    client.close();
  }
}

async function warmUp(
  client: StreamClient,
  warmups: readonly BenchRequest[],
  body: BodyOptions,
  signal: AbortSignal,
): Promise<void> {
  for (const request of warmups) {
    const record = await client.send(requestBody(request, body), request.promptTokens, 0, signal);
    if (record.outcome === 'failed') throw new XllmError('usage', `the warm-up request failed: ${record.error}`);
  }
}

async function runMain(
  client: StreamClient,
  { requests, arrivalMs }: Load,
  body: BodyOptions,
  options: BenchServeOptions,
  io: BenchIo,
): Promise<LoadResult> {
  let numDone = 0;
  let numFailed = 0;
  const plan = { numRequests: requests.length, arrivalMs, maxConcurrency: options.maxConcurrency ?? Infinity };
  const result = await runLoad(
    plan,
    (index, queueMs, signal) => {
      const request = requests[index]!;
      return client.send(requestBody(request, body), request.promptTokens, queueMs, signal);
    },
    systemClock,
    io.signal,
    (record) => {
      numDone++;
      if (record.outcome === 'failed') numFailed++;
      if (io.stderr.isTTY) io.stderr.write(`\r${numDone}/${requests.length} requests, ${numFailed} failed `);
    },
  );
  if (io.stderr.isTTY) io.stderr.write('\n');
  return result;
}

interface ReportContext {
  readonly options: BenchServeOptions;
  readonly io: BenchIo;
  readonly model: string;
  readonly traceFit: TraceFit | null;
  readonly clientCpuS: number;
}

function report(result: LoadResult, { options, io, model, traceFit, clientCpuS }: ReportContext): number {
  const summary: Summary = summarise(result.records, result.durationMs, parseGoodput(options.goodput));
  const errors = countErrors(result.records);
  if (result.isPartial) io.stdout.write('Interrupted: partial result.\n');
  if (traceFit && (traceFit.inputFactor < 1 || traceFit.outputFactor < 1))
    io.stdout.write(
      `Trace lengths scaled: prompts x ${traceFit.inputFactor.toFixed(4)}, outputs x ${traceFit.outputFactor.toFixed(4)}.\n`,
    );
  io.stdout.write(formatSummary(summary, io.stdout.isTTY === true));
  if (summary.numWithoutUsage > 0)
    io.stdout.write(`${summary.numWithoutUsage} requests came without usage: their output tokens are chunk counts.\n`);
  for (const { error, count } of errors.slice(0, 5)) io.stdout.write(`${count} x ${error}\n`);
  if (options.json !== undefined) {
    const file = {
      kind: 'serve',
      date: new Date().toISOString(),
      build: BUILD,
      commit: sourceCommit(),
      machine: describeMachine(readCpuinfo()),
      model,
      parameters: options,
      traceFit,
      isPartial: result.isPartial,
      summary,
      errors,
      clientCpuS,
    };
    writeFileSync(options.json, `${JSON.stringify(file, null, 2)}\n`);
  }
  if (result.isPartial) return 130;
  return summary.completed > 0 ? 0 : 1;
}
