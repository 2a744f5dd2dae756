// Owns `xllm service`: the HTTP half on its own. Engines on this or other hosts register at --listen.
import { randomUUID } from 'node:crypto';
import { monotonicClock } from '../common/clock.ts';
import { XllmError } from '../common/errors.ts';
import { createLog } from '../common/log.ts';
import { ContractServer } from '../contract/grpc.ts';
import { EmbeddedCoordinator } from '../coordination/embedded.ts';
import { EnginePool } from '../service/engines/engine-pool.ts';
import { RoutedEngine } from '../service/engines/routed-engine.ts';
import { createHttpServer } from '../service/http/server.ts';
import { createTextService } from '../service/text/create-text-service.ts';
import { readApiKeys } from './api-keys.ts';
import type { ServiceOptions } from './config/options.ts';
import { readGenerationDefaults } from './generation-defaults.ts';
import { httpConfigOf } from './http-config.ts';
import { findModel } from './model.ts';
import { routingOf } from './routing-config.ts';
import { untilStopped } from './shutdown.ts';

export async function service(options: ServiceOptions, [modelSpec]: readonly string[]): Promise<void> {
  const log = createLog({ format: options.logFormat, level: options.logLevel });
  const apiKeys = readApiKeys(options.apiKeyFile, process.env);
  const found = await findModel(modelSpec, options);
  const coordinator = new EmbeddedCoordinator();
  const contract = new ContractServer();
  coordinator.serve(contract);
  const listen = await contract.listen(options.listen).catch((error: unknown) => {
    throw new XllmError(
      'address_in_use',
      `--listen ${options.listen} cannot be bound: ${error instanceof Error ? error.message : String(error)}`,
    );
  });
  const pool = new EnginePool({
    coordinator,
    replica: `service-${randomUUID()}`,
    limits: { suspectMs: options.suspectTimeoutS * 1_000, stallMs: options.stallTimeoutS * 1_000 },
    events: {
      onReady: ({ instance, model }) => log.info(`engine ${instance} serves ${model}`),
      onLost: ({ name }, reason) => log.warn(`lost engine ${name}: ${reason}`),
      onSuspect: ({ name }, reason) => log.warn(`engine ${name} is suspect: ${reason}`),
    },
  });
  const engine = new RoutedEngine(pool, monotonicClock, routingOf(options, false));
  const text = await createTextService(found.path);
  const names = options.servedModelName.length > 0 ? options.servedModelName : [found.name];
  const defaults = await readGenerationDefaults(found.path);
  const http = createHttpServer({
    engine,
    routing: engine,
    text,
    log,
    config: httpConfigOf(options, names, apiKeys, () => defaults),
  });
  const close = async () => {
    await http.close();
    engine.close();
    pool.close();
    contract.close();
    coordinator.close();
    await text.close();
  };
  try {
    const url = await http.listen();
    log.info(`serving ${names.join(', ')} at ${url}; engines register at ${listen}`);
  } catch (error) {
    await close();
    throw error;
  }
  process.exitCode = await untilStopped(
    { numRunning: () => http.numRunning(), drain: (timeoutMs) => http.drain(timeoutMs), close },
    options.drainTimeoutS * 1_000,
    log,
  );
}
