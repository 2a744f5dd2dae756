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
const watchdogLimits = { maxStalledMs: 60_000, maxMissedPolls: 3 };

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
      watchdog.reset();
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
    if (polling || !engine.model) return;
    polling = true;
    const status = await engine.status();
    polling = false;
    if (closing || !engine.model || watchdog.judge(status?.stalledMs ?? null) === 'alive') return;
    log.error('engine makes no progress; killing it', { pid: supervisor.pid });
    watchdog.reset();
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
      coordinator.close();
      removeFolder();
      process.off('exit', removeFolder);
    },
  };
}
