// Owns the engines on this machine as a service sees them: private folder, coordinator, supervised children, routing.
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { monotonicClock } from '../common/clock.ts';
import { XllmError } from '../common/errors.ts';
import type { Log } from '../common/log.ts';
import { ContractServer } from '../contract/grpc.ts';
import type { Address } from '../contract/protocol.ts';
import { EmbeddedCoordinator } from '../coordination/embedded.ts';
import type { EngineModel } from '../service/engine-client.ts';
import { EnginePool } from '../service/engines/engine-pool.ts';
import { RoutedEngine, type RoutingOptions } from '../service/engines/routed-engine.ts';
import { Supervisor } from '../service/engines/supervisor.ts';
import { defaultHealthLimits } from '../service/registry/instance-state.ts';
import { Watchdog, type WatchdogLimits } from '../service/engines/watchdog.ts';
import { type OptionValues, spawnEngine } from './engine-child.ts';

const POLL_MS = 1_000;
/** A suspect engine gets this long to come back before it is killed. */
const PATIENCE_MS = 10_000;

export interface LocalInstance {
  readonly name: string;
  readonly role: 'mix' | 'prefill' | 'decode';
}

/** `PREFILL:DECODE` engines, or so many that do both. */
export function localInstances(pd: string | undefined, numInstances: number): LocalInstance[] {
  const many = (length: number, role: LocalInstance['role'], prefix: string) =>
    Array.from({ length }, (_, index): LocalInstance => ({ name: `${prefix}-${index}`, role }));
  if (pd === undefined) return many(numInstances, 'mix', 'engine');
  const [numPrefill = 1, numDecode = 1] = pd.split(':').map(Number);
  return [...many(numPrefill, 'prefill', 'prefill'), ...many(numDecode, 'decode', 'decode')];
}

export interface LocalEnginesOptions {
  readonly modelPath: string;
  readonly modelName: string;
  /** Options of `xllm engine`, as resolved. */
  readonly engineOptions: OptionValues;
  readonly instances: readonly LocalInstance[];
  readonly routing: RoutingOptions;
  readonly suspectMs: number;
  readonly stallMs: number;
  readonly log: Log;
}

export interface LocalEngines {
  readonly engine: RoutedEngine;
  /** Resolves when all engines serve for the first time; rejects with XllmError when one cannot start. */
  readonly ready: Promise<EngineModel>;
  start(): void;
  /** Stops the engines (SIGTERM, then SIGKILL) and removes every trace. */
  close(graceMs: number): Promise<void>;
}

/** One supervised child, from life to life. */
interface Child {
  readonly name: string;
  readonly supervisor: Supervisor;
  readonly watchdog: Watchdog;
  /** This life has been ready once; while it loads its silence means nothing. */
  isUp: boolean;
  /** Any life of it. */
  hasServed: boolean;
}

/** Makes everything but the children, which `start` spawns: what needs the pool can be built, and fail, before. */
export async function createLocalEngines(options: LocalEnginesOptions): Promise<LocalEngines> {
  const { log, instances, suspectMs, stallMs } = options;
  // mkdtemp makes the folder private (0700): who can reach the sockets is this user.
  const folder = mkdtempSync(join(tmpdir(), 'xllm-'));
  // SIGKILL cannot be caught; every other way out removes the folder.
  const removeFolder = () => rmSync(folder, { recursive: true, force: true });
  process.once('exit', removeFolder);
  const coordinator = new EmbeddedCoordinator();
  const server = new ContractServer();
  coordinator.serve(server);
  const coordinatorAddress = await server.listen(`unix:${folder}/coordinator.sock`);

  const { promise: ready, resolve, reject } = Promise.withResolvers<EngineModel>();
  let closing = false;
  const limits: WatchdogLimits = { maxStalledMs: stallMs, maxSilentMs: suspectMs + PATIENCE_MS };
  const children = instances.map((local): Child => {
    const { name } = local;
    const supervisor = new Supervisor(spawner(options, local, folder, coordinatorAddress), {
      onExit: (how, restartMs) => {
        child.isUp = false;
        if (closing) return;
        if (restartMs === null && child.hasServed) log.info(`${name} ${how} after its drain, and is not started again`);
        else if (restartMs === null) {
          reject(new XllmError('engine_unavailable', `${name} ${how} while starting; its last lines above say why`));
        } else log.error(`${name} ${how}`, { restartMs });
      },
    });
    const child: Child = { name, supervisor, watchdog: new Watchdog(limits), isUp: false, hasServed: false };
    return child;
  });
  const childOf = (name: string) => children.find((child) => child.name === name);
  const pool = new EnginePool({
    coordinator,
    replica: `service-${process.pid}`,
    limits: { ...defaultHealthLimits, silentMs: suspectMs, stalledMs: stallMs },
    events: {
      onReady: (model) => {
        const child = childOf(model.instance);
        child?.supervisor.markReady();
        child?.watchdog.reset(performance.now());
        if (child) child.isUp = child.hasServed = true;
        log.debug('engine connected', { instance: model.instance });
        if (children.every(({ isUp }) => isUp)) resolve(model);
      },
      onLost: ({ name }, reason) => {
        if (!closing) log.warn(`lost ${name}: ${reason}`);
      },
      onSuspect: ({ name }, reason) => log.warn(`${name} is suspect: ${reason}`),
      onDrained: ({ name }) => childOf(name)?.supervisor.retire(),
      onIgnored: (key, why) => log.warn(`${key} is no registration: ${why}`),
    },
  });
  const engine = new RoutedEngine(pool, monotonicClock, options.routing);
  const poll = setInterval(() => {
    const views = pool.view().instances;
    for (const { name, supervisor, watchdog, isUp } of children) {
      if (!isUp) continue;
      // Not connected is not answering: a stopped process loses its connection and its lease as well.
      const instance = views.find((candidate) => candidate.name === name);
      const isSilent = !instance?.isConnected || instance.silentMs > suspectMs;
      const stalledMs = isSilent ? null : instance.stalledMs;
      if (watchdog.judge(stalledMs, performance.now()) === 'alive') continue;
      log.error(`${name} makes no progress; killing it`, { pid: supervisor.pid });
      supervisor.kill();
    }
  }, POLL_MS).unref();
  // Without a listener a failed start would be an unhandled rejection before anybody awaits it.
  ready.catch(() => {});

  return {
    engine,
    start: () => {
      for (const { supervisor } of children) supervisor.start();
    },
    ready,
    close: async (graceMs) => {
      closing = true;
      clearInterval(poll);
      engine.close();
      pool.close();
      await Promise.all(children.map(({ supervisor }) => supervisor.stop(graceMs)));
      server.close();
      await coordinator.close();
      removeFolder();
      process.off('exit', removeFolder);
    },
  };
}

function spawner(
  { modelPath, modelName, engineOptions, instances }: LocalEnginesOptions,
  { name, role }: LocalInstance,
  folder: string,
  coordinator: Address,
) {
  const threads = engineOptions['threads'] ?? Math.max(1, Math.floor(availableParallelism() / instances.length));
  let numStarts = 0;
  return () =>
    spawnEngine(
      { ...engineOptions, name, role, threads, instancesOnHost: instances.length },
      // A path of its own for each life: a dying predecessor cannot unlink its successor's socket.
      { modelPath, modelName, listen: `unix:${folder}/${name}-${numStarts++}.sock`, coordinator },
    );
}
