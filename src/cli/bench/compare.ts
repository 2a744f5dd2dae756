// Owns `xllm bench compare`: every system on the same weights, prompts and machine, in turns.
import { writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { BUILD } from '../../contract/protocol.ts';
import { modelSettings } from '../../files/resolve/settings.ts';
import { type CompareModel, findModel } from './compare-model.ts';
import type { BenchCompareOptions } from './compare-options.ts';
import { checkText, modelTable } from './compare-report.ts';
import type { CompareResult, ModelResult, SystemResult } from './compare-result.ts';
import type { BenchIo } from './io.ts';
import { describeMachine, readCpuinfo, sourceCommit } from './machine.ts';
import { llamaCpp } from './peers/llama-cpp.ts';
import type { Peer, PrepareContext, PreparedPeer, ServerShape } from './peers/peer.ts';
import { startServer } from './peers/server.ts';
import { xllm } from './peers/xllm.ts';
import { checkPeer, goldenReference, ownReference, type Reference } from './reference.ts';
import { type RoundSettings, runRound } from './round.ts';
import { type Scenario, scenarios } from './scenarios.ts';
import { formatTable } from './table.ts';

const peersByName: Record<BenchCompareOptions['peers'][number], Peer> = {
  'llama.cpp': llamaCpp(null),
  'llama.cpp:Q4_0': llamaCpp('Q4_0'),
};

/**
 * Runs the comparison; resolves to the exit status: 0, 1 when a system answered wrongly, 130 when interrupted (after
 * what was measured till then). Throws XllmError for models that cannot be had and for tools that are missing.
 */
export async function benchCompare(options: BenchCompareOptions, io: BenchIo): Promise<number> {
  const ours = xllm('xllm', options.serveArgs?.split(/\s+/).filter((arg) => arg !== '') ?? []);
  return compareSystems([ours, ...options.peers.map((name) => peersByName[name])], options, io);
}

type ReferenceOf = (model: CompareModel, context: PrepareContext, threads: number) => Promise<Reference>;

const recordedOrOwn: ReferenceOf = async (model, context, threads) =>
  goldenReference(model.sha256) ?? (await ownReference(context, model.vocabSize, threads));

/** `systems`: ours first. What was measured before a failure is reported, then the failure is thrown. */
export async function compareSystems(
  systems: readonly Peer[],
  options: BenchCompareOptions,
  io: BenchIo,
  referenceOf: ReferenceOf = recordedOrOwn,
): Promise<number> {
  const chosen = scenarios.filter(({ id }) => options.scenarios.includes(id));
  const models: ModelResult[] = [];
  let failure: unknown = null;
  try {
    for (const spec of options.models)
      await compareOnModel(spec, { systems, chosen, options, io, referenceOf }, models);
  } catch (error) {
    failure = error;
  }
  const result: CompareResult = {
    kind: 'compare',
    date: new Date().toISOString(),
    build: BUILD,
    commit: sourceCommit(),
    machine: describeMachine(readCpuinfo()),
    command: commandLine(options),
    threads: options.threads,
    rounds: options.rounds,
    maxForeignCores: options.maxForeignCores,
    isPartial: failure !== null,
    scenarios: chosen.map(({ id, title, unit }) => ({ id, title, unit })),
    models,
  };
  report(result, options.json, io);
  if (io.signal.aborted) return 130;
  if (failure !== null) throw failure as Error;
  return models.some((model) => model.systems.some((system) => system.check.verdict === 'wrong')) ? 1 : 0;
}

function report(result: CompareResult, jsonPath: string | undefined, io: BenchIo): void {
  if (result.isPartial) io.stdout.write('Ended early: partial result.\n');
  for (const model of result.models) {
    const { header, rows } = modelTable(model, result);
    io.stdout.write(`\n${model.name} (${model.file}), median of rounds\n`);
    io.stdout.write(formatTable(header, rows, io.stdout.isTTY === true));
    for (const system of model.systems) io.stdout.write(`${checkText(system)}\n`);
    io.stdout.write(`${model.numRejected} samples rejected because other processes ran\n`);
  }
  if (jsonPath !== undefined) writeFileSync(jsonPath, `${JSON.stringify(result, null, 2)}\n`);
}

/** What a reader types to repeat it; folders are left out. */
function commandLine(options: BenchCompareOptions): string {
  const models = options.models.map((model) => basename(model)).join(',');
  const serveArgs = options.serveArgs === undefined ? '' : ` --serve-args "${options.serveArgs}"`;
  return `xllm bench compare --models ${models} --peers ${options.peers.join(',')} --rounds ${options.rounds} --threads ${options.threads}${serveArgs}`;
}

interface Comparison {
  readonly systems: readonly Peer[];
  readonly chosen: readonly Scenario[];
  readonly options: BenchCompareOptions;
  readonly io: BenchIo;
  readonly referenceOf: ReferenceOf;
}

/** Adds the model's result to `models` before its rounds, so that an early end keeps the samples taken. */
async function compareOnModel(
  spec: string,
  { systems, chosen, options, io, referenceOf }: Comparison,
  models: ModelResult[],
): Promise<void> {
  const { signal } = io;
  const { threads } = options;
  const log = (line: string): void => void io.stderr.write(`${line}\n`);
  const { cacheFolder } = modelSettings(io.env, { cacheFolder: options.cache });
  const model = await findModel(spec, { cache: options.cache, env: io.env, signal, log });
  const context: PrepareContext = { modelPath: model.path, cacheFolder, signal, log };
  const prepared: PreparedPeer[] = [];
  for (const system of systems) prepared.push(await system.prepare(context));
  const reference = await referenceOf(model, context, threads);
  const checked: SystemResult[] = [];
  for (const peer of prepared) checked.push(await checkSystem(peer, model, reference, threads, io));
  const { vocabSize } = model;
  const { maxForeignCores, maxAttempts } = options;
  const settings: RoundSettings = { scenarios: chosen, vocabSize, threads, maxForeignCores, maxAttempts, signal, log };
  const samples: ModelResult['samples'] = [];
  const result = {
    name: model.name,
    file: basename(model.path),
    bytes: model.bytes,
    sha256: model.sha256,
    reference: reference.source,
    systems: checked,
    samples,
    numRejected: 0,
  };
  models.push(result);
  for (let round = 0; round < options.rounds; round++) {
    // Who goes first changes, so that a machine that warms up or slows down favours nobody.
    const order = round % 2 === 0 ? prepared : prepared.toReversed();
    result.numRejected += await runRound(round, order, settings, (sample) => samples.push(sample));
  }
}

async function checkSystem(
  peer: PreparedPeer,
  model: CompareModel,
  reference: Reference,
  threads: number,
  io: BenchIo,
): Promise<SystemResult> {
  await using server = await startServer(peer, { shape: 'single', threads }, io.signal);
  const binding = peer.hasOtherWeights ? { ...reference, cases: [] } : reference;
  const check = await checkPeer(binding, model.stopIds, (promptIds, maxTokens) =>
    peer.greedyTokens(server.url, promptIds, maxTokens, io.signal),
  );
  const command = (shape: ServerShape): string => {
    const { file, args } = peer.command({ shape, port: 8000, threads });
    return [file, ...args].map((part) => (part.startsWith('/') ? basename(part) : part)).join(' ');
  };
  const { name, version, notes } = peer;
  const system: SystemResult = {
    name,
    version,
    notes: [...notes],
    commands: { single: command('single'), batch: command('batch') },
    check,
  };
  io.stderr.write(`${model.name}, ${checkText(system)}\n`);
  return system;
}
