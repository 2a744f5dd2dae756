// Owns `xllm engine`: an engine process of its own.
import { createLog } from '../common/log.ts';
import { runEngineProcess } from '../engine/step/engine-process.ts';
import { modelSettings } from '../files/resolve/settings.ts';
import { checkAdvertise, checkListen, coordinatorOptionsOf } from './cluster-config.ts';
import type { EngineOptions } from './config/options.ts';
import { findModel } from './model.ts';
import { openTracer } from './tracing.ts';

export async function engine(options: EngineOptions, [modelSpec]: readonly string[]): Promise<void> {
  const log = createLog({ format: options.logFormat, level: options.logLevel });
  const coordinator = coordinatorOptionsOf(options.coordinator, options, process.env);
  checkListen(options.listen, coordinator.security);
  checkAdvertise(options.listen, options.advertise);
  const model = await findModel(modelSpec, options);
  const { cacheFolder } = modelSettings(process.env, { cacheFolder: options.cache });
  const traced = { serviceName: 'xllm-engine', instance: options.name } as const;
  const tracer = await openTracer(options.otlpEndpoint, traced, log, process.env);
  const exitCode = await runEngineProcess(
    {
      ...options,
      modelPath: model.path,
      modelName: options.modelName ?? model.name,
      cacheFolder,
      isSupervised: options.supervised,
      coordinator,
      tracer,
    },
    log,
  );
  // Native threads of the compute pool would keep the process alive after a failed step.
  process.exit(exitCode);
}
