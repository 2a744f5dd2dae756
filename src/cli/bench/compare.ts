// Owns `xllm bench compare`: every system on the same weights, prompts and machine, in turns.
import { renameSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import { BUILD } from '../../contract/protocol.ts';
import { modelSettings } from '../../files/resolve/settings.ts';
import { type CompareModel, findModel } from './compare-model.ts';
import { type BenchCompareOptions, type PeerName, peerNames, withQuick } from './compare-options.ts';
import { checkText, contenderKey, contenders, modelTable } from './compare-report.ts';
import type { CompareResult, ModelResult, SystemResult } from './compare-result.ts';
import type { BenchIo } from './io.ts';
import { describeMachine, readCpuinfo, sourceCommit } from './machine.ts';
import type { Peer, PrepareContext, PreparedPeer, ServerShape } from './peers/peer.ts';
import { peerProducts } from './peers/products.ts';
import { isSetUp, setUp } from './peers/recipe.ts';
import { startServer } from './peers/server.ts';
import { xllm } from './peers/xllm.ts';
import { checkPeer, goldenReference, ownReference, type Reference } from './reference.ts';
import { measureRoofline, type Roofline } from './roofline.ts';
import { type RoundSettings, runRound } from './round.ts';
import { boundedLoad, type Scenario, scenarios } from './scenarios.ts';
import { formatTable } from './table.ts';

/**
 * Runs the comparison; resolves to the exit status: 0, 1 when a system answered wrongly, 130 when interrupted (after
 * what was measured till then). Throws XllmError for models that cannot be had and for peers that are not set up.
 */
export async function benchCompare(given: BenchCompareOptions, io: BenchIo): Promise<number> {
  const options = withQuick(given);
  const { cacheFolder } = modelSettings(io.env, { cacheFolder: options.cache });
  const log = (line: string): void => void io.stderr.write(`${line}\n`);
  if (options.setUp) {
    const missing = (options.peers ?? peerNames).filter((name) => !isSetUp(peerProducts[name].recipe, cacheFolder));
    for (const name of missing) {
      log(`${name}: ${peerProducts[name].cost}`);
      await setUp(peerProducts[name].recipe, { cacheFolder, signal: io.signal, log });
    }
    log(`set up: ${(options.peers ?? peerNames).join(', ')}`);
    return 0;
  }
  const peers = presentPeers(options.peers, cacheFolder);
  const ours = xllm('xllm', options.serveArgs?.split(/\s+/).filter((arg) => arg !== '') ?? []);
  return compareSystems(
    ({ matrixDType }) => [ours, ...peers.flatMap((name) => peerProducts[name].systems(matrixDType))],
    { ...options, peers },
    io,
  );
}

/** The peers asked for, which must be set up; else those that are. */
function presentPeers(asked: readonly PeerName[] | undefined, cacheFolder: string): PeerName[] {
  const present = peerNames.filter((name) => isSetUp(peerProducts[name].recipe, cacheFolder));
  const missing = (asked ?? []).filter((name) => !present.includes(name));
  const costs = (missing.length > 0 ? missing : peerNames).map((name) => `${name} (${peerProducts[name].cost})`);
  if (missing.length > 0 || present.length === 0)
    throw new XllmError(
      'usage',
      `not set up: ${costs.join('; ')}. Run: xllm bench compare --set-up --peers ${missing.join(',') || 'llama.cpp'}`,
    );
  return [...(asked ?? present)];
}

type SystemsOf = (model: CompareModel) => readonly Peer[];
type ReferenceOf = (model: CompareModel, context: PrepareContext, threads: number) => Promise<Reference>;

const recordedOrOwn: ReferenceOf = async (model, context, threads) =>
  goldenReference(model.sha256) ?? (await ownReference(context, model.vocabSize, threads));

export interface CompareSeams {
  readonly referenceOf: ReferenceOf;
  readonly roofline: (threads: number) => Roofline | null;
}

/** `systemsOf`: ours first. What was measured before a failure is reported, then the failure is thrown. */
export async function compareSystems(
  systemsOf: SystemsOf,
  options: BenchCompareOptions,
  io: BenchIo,
  seams: CompareSeams = { referenceOf: recordedOrOwn, roofline: measureRoofline },
): Promise<number> {
  const chosen = scenarios.filter(({ id }) => options.scenarios.includes(id));
  const result: CompareResult = {
    kind: 'compare',
    date: new Date().toISOString(),
    build: BUILD,
    commit: sourceCommit(),
    machine: describeMachine(readCpuinfo()),
    roofline: seams.roofline(options.threads),
    command: commandLine(options),
    threads: options.threads,
    rounds: options.rounds,
    maxForeignCores: options.maxForeignCores,
    sampleS: options.sampleS,
    isPartial: true,
    scenarios: chosen.map((scenario) => ({
      id: scenario.id,
      title: scenario.title,
      unit: scenario.unit,
      load: boundedLoad(scenario),
    })),
    models: [],
  };
  const save = (): void => {
    if (options.json !== undefined) writeWhole(options.json, `${JSON.stringify(result, null, 2)}\n`);
  };
  const comparison = { systemsOf, chosen, options, io, referenceOf: seams.referenceOf, result, save };
  let failure: unknown = null;
  try {
    for (const spec of options.models) await compareOnModel(spec, comparison);
    result.isPartial = false;
  } catch (error) {
    failure = error;
  }
  save();
  report(result, io);
  if (io.signal.aborted) return 130;
  if (failure !== null) throw failure as Error;
  return result.models.some((model) => model.systems.some((system) => system.check.verdict === 'wrong')) ? 1 : 0;
}

/** A reader, or a run that is cut off, never meets half a file. */
function writeWhole(path: string, text: string): void {
  writeFileSync(`${path}.part`, text);
  renameSync(`${path}.part`, path);
}

function report(result: CompareResult, io: BenchIo): void {
  if (result.isPartial) io.stdout.write('Ended early: partial result.\n');
  for (const model of result.models) {
    const { header, rows } = modelTable(model, result);
    io.stdout.write(`\n${model.name} (${model.file}), median of rounds\n`);
    io.stdout.write(formatTable(header, rows, io.stdout.isTTY === true));
    for (const system of model.systems) io.stdout.write(`${checkText(system)}\n`);
    for (const { name, reason } of model.skipped) io.stdout.write(`${name}: left out: ${reason}\n`);
    io.stdout.write(`${model.numRejected} samples rejected because other processes ran\n`);
  }
}

/** What a reader types to repeat it; folders are left out. */
function commandLine(options: BenchCompareOptions): string {
  const { models, peers, scenarios: ids, rounds, sampleS, threads, serveArgs } = options;
  return [
    'xllm bench compare',
    `--models ${models.map((model) => basename(model)).join(',')}`,
    ...(peers === undefined ? [] : [`--peers ${peers.join(',')}`]),
    ...(ids.length === scenarios.length ? [] : [`--scenarios ${ids.join(',')}`]),
    `--rounds ${rounds} --sample-s ${sampleS} --threads ${threads}`,
    ...(serveArgs === undefined ? [] : [`--serve-args "${serveArgs}"`]),
  ].join(' ');
}

interface Comparison {
  readonly systemsOf: SystemsOf;
  readonly chosen: readonly Scenario[];
  readonly options: BenchCompareOptions;
  readonly io: BenchIo;
  readonly referenceOf: ReferenceOf;
  readonly result: CompareResult;
  /** Writes the result as it is by now. */
  readonly save: () => void;
}

/** Adds the model's result before its rounds, so that an early end keeps the samples taken. */
async function compareOnModel(spec: string, comparison: Comparison): Promise<void> {
  const { systemsOf, chosen, options, io, referenceOf, result, save } = comparison;
  const { signal } = io;
  const { threads } = options;
  const log = (line: string): void => void io.stderr.write(`${line}\n`);
  const { cacheFolder } = modelSettings(io.env, { cacheFolder: options.cache });
  const model = await findModel(spec, { cache: options.cache, env: io.env, signal, log });
  const context: PrepareContext = { modelPath: model.path, cacheFolder, signal, log };
  const { prepared, skipped } = await prepareAll(systemsOf(model), context);
  const reference = await referenceOf(model, context, threads);
  const systems: SystemResult[] = [];
  for (const peer of prepared) systems.push(await checkSystem(peer, model, reference, threads, io));
  const modelResult: ModelResult = {
    name: model.name,
    spec: basename(spec),
    file: basename(model.path),
    bytes: model.bytes,
    sha256: model.sha256,
    reference: reference.source,
    work: model.work,
    systems,
    skipped,
    samples: [],
    numRejected: 0,
  };
  result.models.push(modelResult);
  const { maxForeignCores, maxAttempts, sampleS } = options;
  const { vocabSize } = model;
  const limits = { maxForeignCores, maxAttempts, sampleS };
  const settings: RoundSettings = { ...limits, scenarios: chosen, vocabSize, threads, signal, log };
  const sink = {
    onSample: (sample: ModelResult['samples'][number]) => {
      modelResult.samples.push(sample);
      save();
    },
    onRejected: (count: number) => {
      modelResult.numRejected += count;
    },
  };
  let decisive: ReadonlySet<string> | null = null;
  for (let round = 0; round < options.rounds; round++) {
    const isWanted = (system: string, { id }: Scenario): boolean =>
      decisive === null || system === prepared[0]?.name || decisive.has(contenderKey(id, system));
    // Who goes first changes, so that a machine that warms up or slows down favours nobody.
    const order = round % 2 === 0 ? prepared : prepared.toReversed();
    await runRound(round, order, isWanted, settings, sink);
    decisive ??= contenders(modelResult, result.scenarios);
  }
}

/** A system that cannot serve the model is left out, and said to be. */
async function prepareAll(
  systems: readonly Peer[],
  context: PrepareContext,
): Promise<{ readonly prepared: PreparedPeer[]; readonly skipped: ModelResult['skipped'] }> {
  const prepared: PreparedPeer[] = [];
  const skipped: ModelResult['skipped'] = [];
  for (const system of systems) {
    try {
      prepared.push(await system.prepare(context));
    } catch (error) {
      if (!(error instanceof XllmError) || error.code !== 'usage') throw error;
      context.log(`${system.name}: left out: ${error.message}`);
      skipped.push({ name: system.name, reason: error.message });
    }
  }
  return { prepared, skipped };
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
  const { name, version, notes } = peer;
  const commands = { single: commandText(peer, 'single', threads), batch: commandText(peer, 'batch', threads) };
  const system: SystemResult = { name, version, notes: [...notes], commands, check };
  io.stderr.write(`${model.name}, ${checkText(system)}\n`);
  return system;
}

function commandText(peer: PreparedPeer, shape: ServerShape, threads: number): string {
  const { file, args, env } = peer.command({ shape, port: 8000, threads });
  const settings = Object.entries(env ?? {}).map(([name, value]) => `${name}=${value}`);
  const words = [file, ...args].map((part) => (part.startsWith('/') ? basename(part) : part));
  return [...settings, ...words].join(' ');
}
