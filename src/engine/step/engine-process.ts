// Owns the life of an engine process: load, serve the contract, register, step, stop.
import { randomUUID } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { bytesOfDigests } from '../../common/block-digest.ts';
import { type Clock, monotonicClock } from '../../common/clock.ts';
import { describeLaps } from '../../common/laps.ts';
import type { Log } from '../../common/log.ts';
import { bytesOfInt32 } from '../../contract/codec.ts';
import { type HelloReply, HelloReplySchema, KvEventBatchSchema } from '../../contract/generated/xllm_pb.js';
import { ContractServer } from '../../contract/grpc.ts';
import { BUILD, PROTOCOL_VERSION } from '../../contract/protocol.ts';
import { encodeRecord, INSTANCE_PREFIX, type InstanceRecord } from '../../coordination/coordinator.ts';
import { RemoteCoordinator } from '../../coordination/remote.ts';
import type { SequenceUpdate } from '../scheduler/spec.ts';
import { EngineServer } from './engine-server.ts';
import { type EngineLoadOptions, type LoadedEngine, loadEngine } from './load-engine.ts';
import { EngineStatus } from './status.ts';
import { StepLoop } from './step-loop.ts';

export interface EngineProcessOptions extends EngineLoadOptions {
  readonly name: string;
  readonly listen: string;
  readonly coordinator: string;
  readonly asyncScheduling: boolean;
  readonly isSupervised: boolean;
}

const LEASE_MS = 5_000;
/** How late a deadline may be noticed while no step runs, and how often KV events are looked for. */
const TICK_MS = 100;
const DRAIN_MS = 30_000;

/** Serves until it is told to stop. Resolves with the exit code. Throws XllmError when it cannot start. */
export async function runEngineProcess(options: EngineProcessOptions, log: Log): Promise<number> {
  const clock = monotonicClock;
  const { promise: stopped, resolve: stop } = Promise.withResolvers<number>();
  if (options.isSupervised) holdLeash(options.listen);
  preferAsVictim();
  // Since the process began: Node itself, and reading and compiling modules.
  const processMs = clock.nowMs();
  const engine = await loadEngine(options, clock, (text) => log.warn(text));
  const status = new EngineStatus(engine);
  const loop = new StepLoop({
    scheduler: engine.scheduler,
    executor: engine.executor,
    clock,
    asyncScheduling: options.asyncScheduling,
    onCommit: (plan, output, updates) => {
      status.count(output);
      server.publish(plan.stepId, updates);
    },
    onFailure: (error) => {
      log.error(`a step failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      stop(1);
    },
  });
  const server = hostEngine(options, engine, loop, status, clock, processMs);
  const contract = new ContractServer();
  server.serve(contract);
  const address = await contract.listen(options.listen);
  const coordinator = new RemoteCoordinator(options.coordinator);
  coordinator.hold(`${INSTANCE_PREFIX}${options.name}`, encodeRecord(recordOf(options, address)), LEASE_MS);
  let checkedSteps = 0;
  const tick = setInterval(() => {
    server.expire();
    if (engine.scheduler.hasWork() || checkedSteps === loop.numSteps) return;
    // Once per time of rest: with many pages it takes milliseconds.
    checkedSteps = loop.numSteps;
    engine.kv.checkIntegrity();
  }, TICK_MS);
  log.debug('engine serves', { address, numericsId: engine.numericsId });
  log.debug('engine start-up in ms', { process: processMs, ...engine.loadMs });

  process.on('SIGTERM', () => void server.drain(DRAIN_MS).then(() => stop(0)));
  // In a terminal Ctrl-C reaches the whole process group: the service decides when a supervised engine ends.
  process.on('SIGINT', () => {
    if (!options.isSupervised) void server.drain(DRAIN_MS).then(() => stop(0));
  });

  const exitCode = await stopped;
  clearInterval(tick);
  coordinator.close();
  contract.close();
  await loop.close();
  if (exitCode === 0) await engine.close();
  return exitCode;
}

function hostEngine(
  options: EngineProcessOptions,
  engine: LoadedEngine,
  loop: StepLoop<SequenceUpdate>,
  status: EngineStatus,
  clock: Clock,
  processMs: number,
): EngineServer {
  const { scheduler, kv, memory, model } = engine;
  return new EngineServer({
    scheduler,
    limits: { vocabSize: model.config.numIds, maxModelLen: memory.maxModelLen },
    clock,
    wake: () => loop.wake(),
    hello: () => helloOf(options, engine, processMs),
    status: () => status.reply(loop),
    kvEvents: (after, send) => {
      let seen = Number(after);
      let isFirst = true;
      const poll = () => {
        const batch = kv.eventsSince(seen);
        if (!isFirst && batch.number === seen) return;
        isFirst = false;
        seen = batch.number;
        send(
          create(KvEventBatchSchema, {
            number: BigInt(batch.number),
            snapshot: batch.isSnapshot,
            stored: bytesOfDigests(batch.stored),
            evicted: bytesOfDigests(batch.evicted),
          }),
        );
      };
      poll();
      const timer = setInterval(poll, TICK_MS);
      return () => clearInterval(timer);
    },
  });
}

function helloOf(options: EngineProcessOptions, engine: LoadedEngine, processMs: number): HelloReply {
  const { model, memory, numericsId, summary, loadMs } = engine;
  return create(HelloReplySchema, {
    protocol: PROTOCOL_VERSION,
    build: BUILD,
    instance: options.name,
    incarnation,
    model: options.modelName,
    modelPath: options.modelPath,
    numericsId,
    vocabSize: model.config.numIds,
    maxModelLen: memory.maxModelLen,
    blockTokens: options.blockSize,
    numKvBlocks: Math.min(...memory.numPages),
    stopTokenIds: bytesOfInt32(Int32Array.from(model.config.stopTokenIds)),
    summaryJson: JSON.stringify({ ...summary, 'engine start': describeLaps({ process: processMs, ...loadMs }) }),
  });
}

/** One life of this process. */
const incarnation = randomUUID();

function recordOf({ name, modelName }: EngineProcessOptions, address: string): InstanceRecord {
  return { name, incarnation, address, model: modelName, build: BUILD, roles: ['mix'] };
}

/** Standard input is a pipe whose other end only the service holds: when it closes, however, there is nobody to serve. */
function holdLeash(listen: string): void {
  process.stdin.on('end', () => {
    if (listen.startsWith('unix:')) rmSync(dirname(listen.slice('unix:'.length)), { recursive: true, force: true });
    process.exit(0);
  });
  process.stdin.resume();
  // An engine that fails to start ends by itself; what serves keeps the process alive.
  process.stdin.unref();
}

/** When memory runs out the kernel should end the engine, which restarts, and not the service or its neighbours. */
function preferAsVictim(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', '500');
  } catch (error) {
    // Not Linux, or not allowed: then the kernel's own choice stands.
    if (!(error instanceof Error && 'code' in error)) throw error;
  }
}
