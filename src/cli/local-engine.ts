// Owns an engine on this machine as a service sees it: private folder, coordinator, supervised child, connection pool.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { XllmError } from '../common/errors.ts';
import type { Log } from '../common/log.ts';
import { ContractServer } from '../contract/grpc.ts';
import { EmbeddedCoordinator } from '../coordination/embedded.ts';
import type { EngineModel } from '../service/engine-client.ts';
import { EnginePool } from '../service/engines/engine-pool.ts';
import { Supervisor } from '../service/engines/supervisor.ts';
import { Watchdog } from '../service/engines/watchdog.ts';
import { type OptionValues, spawnEngine } from './engine-child.ts';

const POLL_MS = 1_000;
const watchdogLimits = { maxStalledMs: 60_000, maxSilentMs: 15_000 };

export interface LocalEngineOptions {
  readonly modelPath: string;
  readonly modelName: string;
  /** Options of `xllm engine`, as resolved. */
  readonly engineOptions: OptionValues;
  readonly log: Log;
}

export interface LocalEngine {
  readonly engine: EnginePool;
  /** Resolves when the engine first serves; rejects with XllmError when it cannot start. */
  readonly ready: Promise<EngineModel>;
  start(): void;
  enginePid(): number | undefined;
  numRestarts(): number;
  /** Stops the engine (SIGTERM, then SIGKILL) and removes every trace. */
  close(graceMs: number): Promise<void>;
}

/** Makes everything but the child, which `start` spawns: what needs the pool can be built, and fail, before. */
export async function createLocalEngine(options: LocalEngineOptions): Promise<LocalEngine> {
  const { modelPath, modelName, engineOptions, log } = options;
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
  /** This life of the engine has been ready once; while it loads its silence means nothing. */
  let isUp = false;
  let numStarts = 0;
  const supervisor = new Supervisor(
    () =>
      spawnEngine(engineOptions, {
        modelPath,
        modelName,
        // A path of its own for each life: a dying predecessor cannot unlink its successor's socket.
        listen: `unix:${folder}/engine-${numStarts++}.sock`,
        coordinator: coordinatorAddress,
      }),
    {
      onExit: (how, restartMs) => {
        isUp = false;
        if (closing) return;
        if (restartMs === null)
          reject(new XllmError('engine_unavailable', `the engine ${how} while starting; its last lines above say why`));
        else log.error(`engine ${how}`, { restartMs });
      },
    },
  );
  const engine = new EnginePool(coordinator, `service-${process.pid}`, {
    onReady: (model) => {
      supervisor.markReady();
      isUp = true;
      watchdog.reset(performance.now());
      log.debug('engine connected', { instance: model.instance });
      resolve(model);
    },
    onLost: (record, reason) => {
      if (!closing) log.warn(`lost engine ${record.name}: ${reason}`);
    },
  });
  const watchdog = new Watchdog(watchdogLimits);
  const poll = setInterval(() => void judge(), POLL_MS).unref();
  let polling = false;
  async function judge(): Promise<void> {
    // A poll waits longer than the interval when the engine hangs.
    if (polling || !isUp) return;
    polling = true;
    const status = await engine.status();
    polling = false;
    // Not connected is not answering: a stopped process loses its connection and its lease as well.
    if (closing || !isUp || watchdog.judge(status?.stalledMs ?? null, performance.now()) === 'alive') return;
    log.error('engine makes no progress; killing it', { pid: supervisor.pid });
    isUp = false;
    supervisor.kill();
  }
  // Without a listener a failed start would be an unhandled rejection before anybody awaits it.
  ready.catch(() => {});

  return {
    engine,
    start: () => supervisor.start(),
    ready,
    enginePid: () => supervisor.pid,
    numRestarts: () => supervisor.numRestarts,
    close: async (graceMs) => {
      closing = true;
      clearInterval(poll);
      engine.close();
      await supervisor.stop(graceMs);
      server.close();
      await coordinator.close();
      removeFolder();
      process.off('exit', removeFolder);
    },
  };
}
