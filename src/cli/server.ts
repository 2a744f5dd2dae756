// Owns the composition of a whole server on this machine: model, text, engine and HTTP; also without a terminal around it.
import { monotonicClock } from '../common/clock.ts';
import { Laps } from '../common/laps.ts';
import { createLog, type Log } from '../common/log.ts';
import type { EngineModel } from '../service/engine-client.ts';
import { createHttpServer } from '../service/http/server.ts';
import { createTextService } from '../service/text/create-text-service.ts';
import { readApiKeys } from './api-keys.ts';
import type { ServeOptions } from './config/options.ts';
import { readGenerationDefaults } from './generation-defaults.ts';
import { httpConfigOf } from './http-config.ts';
import { createLocalEngines, localInstances } from './local-engines.ts';
import { findModel } from './model.ts';
import { routingOf } from './routing-config.ts';
import { openTracer } from './tracing.ts';

export interface Server {
  readonly url: string;
  readonly modelNames: readonly string[];
  readonly model: EngineModel;
  /** What starting took: part → milliseconds. */
  readonly startMs: Readonly<Record<string, number>>;
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
  const laps = new Laps(monotonicClock);
  const found = await findModel(modelSpec, options);
  laps.end('finding the model');
  const modelNames = options.servedModelName.length > 0 ? options.servedModelName : [found.name];
  const closers: (() => Promise<void>)[] = [];
  const closeAll = async () => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    const instances = localInstances(options.pd, options.instances);
    const local = await createLocalEngines({
      modelPath: found.path,
      modelName: modelNames[0] ?? found.name,
      engineOptions: options,
      instances,
      routing: routingOf(options, instances.length === 1),
      suspectMs: options.suspectTimeoutS * 1_000,
      stallMs: options.stallTimeoutS * 1_000,
      log,
    });
    const traced = { serviceName: 'xllm-service', instance: `service-${process.pid}` } as const;
    const tracer = await openTracer(options.otlpEndpoint, traced, log, process.env);
    closers.push(async () => tracer?.close());
    let graceMs = 0;
    closers.push(() => local.close(graceMs));
    // The engine loads while this process reads the tokenizer.
    local.start();
    const text = await createTextService(found.path);
    closers.push(() => text.close());
    laps.end('tokenizer');
    const defaults = await readGenerationDefaults(found.path);
    const http = createHttpServer({
      engine: local.engine,
      routing: local.engine,
      assetsOf: () => ({ text, defaults }),
      log,
      tracer,
      config: httpConfigOf(options, modelNames, apiKeys),
    });
    closers.push(() => http.close());
    const url = await http.listen();
    laps.end('HTTP');
    const model = await local.ready;
    laps.end('waiting for the engine');
    return {
      url,
      modelNames,
      model,
      startMs: laps.all,
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
