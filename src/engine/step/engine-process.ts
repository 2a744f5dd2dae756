// Owns the life of an engine process: load, serve the contract, register, step, stop.
import { randomUUID } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { bytesOfDigests } from '../../common/block-digest.ts';
import { type Clock, monotonicClock } from '../../common/clock.ts';
import { describeLaps } from '../../common/laps.ts';
import type { Log } from '../../common/log.ts';
import type { Tracer } from '../../common/trace.ts';
import { bytesOfInt32 } from '../../contract/codec.ts';
import { type HelloReply, HelloReplySchema, KvEventBatchSchema } from '../../contract/generated/xllm_pb.js';
import { ContractServer } from '../../contract/grpc.ts';
import { BUILD, PROTOCOL_VERSION } from '../../contract/protocol.ts';
import { encodeRecord, INSTANCE_PREFIX, type InstanceRecord } from '../../coordination/instance-record.ts';
import { type CoordinatorOptions, openCoordinator } from '../../coordination/open-coordinator.ts';
import type { SequenceUpdate } from '../scheduler/spec.ts';
import { EngineServer } from './engine-server.ts';
import { EngineTransfers } from './engine-transfers.ts';
import { type HostedEngine, type HostedEngineOptions, openEngine } from './hosted-engine.ts';
import { describeKvLayout } from './kv-layout.ts';
import { EngineStatus } from './status.ts';
import { StepLoop } from './step-loop.ts';

export interface EngineProcessOptions extends HostedEngineOptions {
  readonly name: string;
  readonly role: InstanceRecord['roles'][number];
  readonly listen: string;
  /** Where the service reaches it, if that is not where it listens. */
  readonly advertise?: string | undefined;
  readonly coordinator: CoordinatorOptions;
  readonly asyncScheduling: boolean;
  /** auto: instances of one host map each other's pools. */
  readonly kvTransport: 'auto' | 'tcp';
  readonly isSupervised: boolean;
  /** null: no traces. */
  readonly tracer: Tracer | null;
}

const LEASE_MS = 5_000;
/** How late a deadline may be noticed while no step runs, and how often KV events are looked for. */
const TICK_MS = 100;
const DRAIN_MS = 30_000;
/** For whoever is too slow, or gone. */
const FAREWELL_MS = 2_000;
/** How long a leaving instance waits for pages that others read. */
const SETTLE_MS = 10_000;

/** Serves until it is told to stop. Resolves with the exit code. Throws XllmError when it cannot start. */
export async function runEngineProcess(options: EngineProcessOptions, log: Log): Promise<number> {
  const clock = monotonicClock;
  const { promise: stopped, resolve: stop } = Promise.withResolvers<number>();
  if (options.isSupervised) holdLeash(options.listen);
  preferAsVictim();
  // Since the process began: Node itself, and reading and compiling modules.
  const processMs = clock.nowMs();
  const engine = await openEngine(options, clock, (text) => log.warn(text));
  const status = new EngineStatus(engine);
  const transfers = new EngineTransfers({
    engine,
    instance: options.name,
    incarnation,
    model: options.modelName,
    kvLayout: describeKvLayout(engine.groups, options.blockSize),
    mapsPools: options.kvTransport === 'auto',
    usesPrefixCache: options.enablePrefixCaching,
    security: options.coordinator.security ?? {},
    listenHost: hostOf(options.listen),
    advertisedHost: options.advertise === undefined ? hostOf(options.listen) : hostOf(options.advertise),
    adopter: () => server,
    publish: (update) => server.publish(0, [update]),
    onStay: (id) => server.stays(id),
    wake: () => loop.wake(),
    nowMs: () => clock.nowMs(),
  });
  const loop = new StepLoop({
    scheduler: transfers,
    executor: engine.executor,
    clock,
    asyncScheduling: options.asyncScheduling,
    onCommit: (plan, output, updates) => {
      status.count(plan, output);
      server.publish(plan.stepId, updates);
      transfers.committed(plan.stepId);
    },
    onFailure: (error) => {
      log.error(`a step failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      stop(1);
    },
  });
  const leave = async () => {
    await transfers.settle(SETTLE_MS);
    stop(0);
  };
  const server = hostEngine(options, engine, transfers, loop, status, clock, processMs, () => {
    log.info('drained, leaving');
    void leave();
  });
  const contract = new ContractServer(options.coordinator.security);
  server.serve(contract);
  const address = await contract.listen(options.listen);
  const coordinator = await openCoordinator(options.coordinator, {
    onUnavailable: (reason) => log.warn(`the coordinator cannot be reached, requests go on: ${reason}`),
    onAvailable: () => log.info('the coordinator is back'),
  });
  const record = recordOf(options, engine, status, address);
  coordinator.hold(`${INSTANCE_PREFIX}${options.name}`, encodeRecord(record), LEASE_MS);
  let checkedSteps = 0;
  const tick = setInterval(() => {
    server.expire();
    transfers.flush();
    if (engine.scheduler.hasWork() || checkedSteps === loop.numSteps) return;
    // Once per time of rest: with many pages it takes milliseconds.
    checkedSteps = loop.numSteps;
    engine.kv.checkIntegrity();
  }, TICK_MS);
  log.debug('engine serves', { address, numericsId: engine.numericsId });
  log.debug('engine start-up in ms', { process: processMs, ...engine.loadMs });

  process.on('SIGTERM', () => void server.drain(DRAIN_MS).then(leave));
  // In a terminal Ctrl-C reaches the whole process group: the service decides when a supervised engine ends.
  process.on('SIGINT', () => {
    if (!options.isSupervised) void server.drain(DRAIN_MS).then(leave);
  });

  const exitCode = await stopped;
  clearInterval(tick);
  transfers.close();
  await coordinator.close();
  // What was sent last, such as that requests have moved on, is to arrive before the connections end.
  await contract.closeGently(FAREWELL_MS);
  await loop.close();
  await options.tracer?.close();
  if (exitCode === 0) await engine.close();
  return exitCode;
}

function hostEngine(
  options: EngineProcessOptions,
  engine: HostedEngine,
  transfers: EngineTransfers,
  loop: StepLoop<SequenceUpdate>,
  status: EngineStatus,
  clock: Clock,
  processMs: number,
  leave: () => void,
): EngineServer {
  const { scheduler, kv, memory, vocabSize } = engine;
  const server = new EngineServer({
    incarnation,
    model: options.modelName,
    scheduler,
    transfers,
    limits: { vocabSize, maxModelLen: memory.maxModelLen },
    clock,
    tracer: options.tracer,
    wake: () => loop.wake(),
    leave,
    hello: () => helloOf(options, engine, status, processMs),
    status: () => status.reply({ ...progressOf(loop), isDraining: server.isDraining, handOff: transfers.status() }),
    kvEvents: (after, send) => {
      let seen = Number(after);
      let isFirst = true;
      const poll = () => {
        const batch = kv.eventsSince(seen);
        if (!isFirst && batch.number === seen) return;
        isFirst = false;
        const before = seen;
        seen = batch.number;
        send(
          create(KvEventBatchSchema, {
            after: BigInt(before),
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
  return server;
}

function progressOf({ numSteps, stalledMs, eventLoopCpuUs }: StepLoop<SequenceUpdate>) {
  return { numSteps, stalledMs, eventLoopCpuUs };
}

function helloOf(
  options: EngineProcessOptions,
  engine: HostedEngine,
  status: EngineStatus,
  processMs: number,
): HelloReply {
  const { memory, numericsId, summary, vocabSize, stopTokenIds, loadMs } = engine;
  return create(HelloReplySchema, {
    protocol: PROTOCOL_VERSION,
    build: BUILD,
    instance: options.name,
    incarnation,
    model: options.modelName,
    modelPath: options.modelPath,
    numericsId,
    vocabSize,
    maxModelLen: memory.maxModelLen,
    blockTokens: options.blockSize,
    numKvBlocks: Math.min(...memory.numPages),
    stopTokenIds: bytesOfInt32(Int32Array.from(stopTokenIds)),
    summaryJson: JSON.stringify({ ...summary, 'engine start': describeLaps({ process: processMs, ...loadMs }) }),
    maxNumSeqs: options.maxNumSeqs,
    maxNumBatchedTokens: Math.max(options.maxNumBatchedTokens, options.maxNumSeqs),
    stepTime: status.stepTime(),
  });
}

/** Of `host:port`; what listens at a unix socket is reached on this host alone. */
function hostOf(address: string): string {
  return address.startsWith('unix:') ? '127.0.0.1' : address.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
}

/** One life of this process. */
const incarnation = randomUUID();

function recordOf(
  options: EngineProcessOptions,
  { memory, numericsId, groups }: HostedEngine,
  status: EngineStatus,
  address: string,
): Omit<InstanceRecord, 'version'> {
  const { constantMs, tokenMs, seqMs, contextMs, pairMs } = status.stepTime();
  return {
    name: options.name,
    incarnation,
    address: options.advertise ?? address,
    roles: [options.role],
    model: options.modelName,
    build: BUILD,
    numericsId,
    kvLayout: describeKvLayout(groups, options.blockSize),
    capacity: {
      maxNumSeqs: options.maxNumSeqs,
      maxNumBatchedTokens: Math.max(options.maxNumBatchedTokens, options.maxNumSeqs),
      longPrefillThreshold: options.longPrefillThreshold,
      numKvBlocks: Math.min(...memory.numPages),
      blockTokens: options.blockSize,
      maxModelLen: memory.maxModelLen,
    },
    stepTime: { constantMs, tokenMs, seqMs, contextMs, pairMs },
  };
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
