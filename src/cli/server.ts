// Owns the composition of a whole server on this machine: model, text, engine and HTTP; also without a terminal around it.
import { createLog, type Log } from '../common/log.ts';
import type { EngineModel } from '../service/engine-client.ts';
import { createHttpServer } from '../service/http/server.ts';
import { createTextService } from '../service/text/create-text-service.ts';
import { readApiKeys } from './api-keys.ts';
import type { ServeOptions } from './config/options.ts';
import { readGenerationDefaults } from './generation-defaults.ts';
import { httpConfigOf } from './http-config.ts';
import { createLocalEngines } from './local-engines.ts';
import { findModel } from './model.ts';
import { routingOf } from './routing-config.ts';

export interface Server {
  readonly url: string;
  readonly modelNames: readonly string[];
  readonly model: EngineModel;
  readonly log: Log;
  readonly hasApiKeys: boolean;
  numRunning(): number;
  /** Refuses new requests and waits for those that run, at most `timeoutMs`. */
  drain(timeoutMs: number): Promise<unknown>;
  /** Ends everything; the engine gets `graceMs` to stop in good order. */
  close(graceMs: number): Promise<void>;
}

/** Resolves when requests are served. Rejects with XllmError, leaving nothing running. */
export async function startServer(options: ServeOptions, modelSpec: string | undefined): Promise<Server> {
  const log = createLog({ format: options.logFormat, level: options.logLevel });
  const apiKeys = readApiKeys(options.apiKeyFile, process.env);
  const found = await findModel(modelSpec, options);
  const modelNames = options.servedModelName.length > 0 ? options.servedModelName : [found.name];
  const closers: (() => Promise<void>)[] = [];
  const closeAll = async () => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    const text = await createTextService(found.path);
    closers.push(() => text.close());
    const local = await createLocalEngines({
      modelPath: found.path,
      modelName: modelNames[0] ?? found.name,
      engineOptions: options,
      numInstances: options.instances,
      routing: routingOf(options, options.instances === 1),
      suspectMs: options.suspectTimeoutS * 1_000,
      stallMs: options.stallTimeoutS * 1_000,
      log,
    });
    let graceMs = 0;
    closers.push(() => local.close(graceMs));
    const defaults = await readGenerationDefaults(found.path);
    const http = createHttpServer({
      engine: local.engine,
      routing: local.engine,
      assetsOf: () => ({ text, defaults }),
      log,
      config: httpConfigOf(options, modelNames, apiKeys),
    });
    closers.push(() => http.close());
    // The port is taken before the engine starts: a conflict is found at once.
    const url = await http.listen();
    local.start();
    const model = await local.ready;
    return {
      url,
      modelNames,
      model,
      log,
      hasApiKeys: apiKeys.length > 0,
      numRunning: () => http.numRunning(),
      drain: (timeoutMs) => http.drain(timeoutMs),
      close: async (grace) => {
        graceMs = grace;
        await closeAll();
      },
    };
  } catch (error) {
    await closeAll();
    throw error;
  }
}
