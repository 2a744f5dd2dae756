// Owns `xllm service`: the HTTP half on its own. Engines on this or other hosts register at --listen or through etcd.
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { monotonicClock } from '../common/clock.ts';
import { XllmError } from '../common/errors.ts';
import { createLog, type Log } from '../common/log.ts';
import { ContractServer } from '../contract/grpc.ts';
import { BUILD } from '../contract/protocol.ts';
import type { Coordinator } from '../coordination/coordinator.ts';
import { EmbeddedCoordinator } from '../coordination/embedded.ts';
import { openCoordinator } from '../coordination/open-coordinator.ts';
import { EnginePool } from '../service/engines/engine-pool.ts';
import { RoutedEngine } from '../service/engines/routed-engine.ts';
import { ServiceGroup } from '../service/engines/service-group.ts';
import { createHttpServer } from '../service/http/server.ts';
import { defaultHealthLimits } from '../service/registry/instance-state.ts';
import { readApiKeys } from './api-keys.ts';
import { checkListen, clusterSecurityOf, coordinatorOptionsOf } from './cluster-config.ts';
import type { ServiceOptions } from './config/options.ts';
import { httpConfigOf } from './http-config.ts';
import { findModel } from './model.ts';
import { ModelCatalogue } from './model-catalogue.ts';
import { routingOf } from './routing-config.ts';
import { untilStopped } from './shutdown.ts';
import { openTracer } from './tracing.ts';

export async function service(options: ServiceOptions, modelSpecs: readonly string[]): Promise<void> {
  const log = createLog({ format: options.logFormat, level: options.logLevel });
  const apiKeys = readApiKeys(options.apiKeyFile, process.env);
  const security = clusterSecurityOf(options, process.env);
  if (options.servedModelName.length > 0 && modelSpecs.length > 1)
    throw new XllmError('usage', '--served-model-name renames one model, and several are given');
  const closers: (() => Promise<void> | void)[] = [];
  const close = async () => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  try {
    const catalogue = new ModelCatalogue(log, async (name) => (await findModel(name, options)).path);
    closers.push(() => catalogue.close());
    const expected: string[] = [];
    for (const spec of modelSpecs) {
      const { name, path } = await findModel(spec, options);
      await catalogue.open(name, path);
      expected.push(name);
    }
    const { coordinator, registersAt, closeCoordinator } = await openOwnCoordinator(options, log);
    closers.push(closeCoordinator);
    const replica = `${hostname()}-${randomUUID().slice(0, 8)}`;
    const traced = { serviceName: 'xllm-service', instance: replica } as const;
    const tracer = await openTracer(options.otlpEndpoint, traced, log, process.env);
    closers.push(() => tracer?.close());
    const pool = new EnginePool({
      coordinator,
      replica,
      security,
      limits: {
        ...defaultHealthLimits,
        silentMs: options.suspectTimeoutS * 1_000,
        stalledMs: options.stallTimeoutS * 1_000,
      },
      events: {
        onReady: (model) => {
          log.info(`engine ${model.instance} serves ${model.model}`);
          catalogue.need(model);
        },
        onLost: ({ name }, reason) => log.warn(`lost engine ${name}: ${reason}`),
        onSuspect: ({ name }, reason) => log.warn(`engine ${name} is suspect: ${reason}`),
        onIgnored: (key, why) => log.warn(`${key} is no registration: ${why}`),
      },
    });
    closers.push(() => pool.close());
    const engine = new RoutedEngine(pool, monotonicClock, routingOf(options, false));
    closers.push(() => engine.close());
    let group: ServiceGroup | null = null;
    const http = createHttpServer({
      engine,
      routing: engine,
      assetsOf: (model) => catalogue.of(model),
      log,
      tracer,
      group: () => group?.report() ?? { replica, replicas: [], writer: null, summary: null },
      config: { ...httpConfigOf(options, options.servedModelName, apiKeys), expectedModels: expected },
    });
    closers.push(() => http.close());
    const url = await http.listen();
    group = new ServiceGroup({
      coordinator,
      self: { name: replica, url, build: BUILD },
      view: () => engine.view(),
      onWriter: (writer) => log.debug(`${writer ?? 'nobody'} writes for all replicas`),
    });
    const joined = group;
    closers.push(() => joined.close());
    const what = expected.length > 0 ? ` ${expected.join(', ')}` : '';
    log.info(`serving${what} at ${url}; engines register at ${registersAt}`);
    process.exitCode = await untilStopped(
      { numRunning: () => http.numRunning(), drain: (timeoutMs) => http.drain(timeoutMs), close },
      options.drainTimeoutS * 1_000,
      log,
    );
  } finally {
    await close();
  }
}

interface OwnCoordinator {
  readonly coordinator: Coordinator;
  /** What engines are to be told. */
  readonly registersAt: string;
  readonly closeCoordinator: () => Promise<void>;
}

/** etcd where it is named, otherwise one of our own that engines reach at --listen. */
async function openOwnCoordinator(options: ServiceOptions, log: Log): Promise<OwnCoordinator> {
  if (options.coordinator !== undefined) {
    const parsed = coordinatorOptionsOf(options.coordinator, options, process.env);
    if (parsed.address.kind !== 'etcd')
      throw new XllmError('usage', '--coordinator of a service is etcd://…; without it, engines register at --listen');
    const coordinator = await openCoordinator(parsed, {
      onUnavailable: (reason) => log.warn(`the coordinator cannot be reached, the last view stays in use: ${reason}`),
      onAvailable: () => log.info('the coordinator is back'),
    });
    return { coordinator, registersAt: options.coordinator, closeCoordinator: () => coordinator.close() };
  }
  const security = clusterSecurityOf(options, process.env);
  checkListen(options.listen, security);
  const coordinator = new EmbeddedCoordinator();
  const contract = new ContractServer(security);
  coordinator.serve(contract);
  const registersAt = await contract.listen(options.listen).catch((error: unknown) => {
    throw new XllmError(
      'address_in_use',
      `--listen ${options.listen} cannot be bound: ${error instanceof Error ? error.message : String(error)}`,
    );
  });
  const closeCoordinator = async () => {
    contract.close();
    await coordinator.close();
  };
  return { coordinator, registersAt, closeCoordinator };
}
