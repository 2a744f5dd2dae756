// Owns the HTTP server as the rest of the program sees it: built from its parts, listening, drained, closed.
import { randomBytes } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import { type Clock, monotonicClock } from '../../common/clock.ts';
import { XllmError } from '../../common/errors.ts';
import type { Log } from '../../common/log.ts';
import type { Tracer } from '../../common/trace.ts';
import type { EngineClient } from '../engine-client.ts';
import type { GroupReport } from '../engines/service-group.ts';
import { createApp } from './app.ts';
import { defaultHttpConfig, type HttpConfig } from './config.ts';
import type { HttpContext } from './context.ts';
import { isLoopback } from './guard/hosts.ts';
import { RequestMetrics } from './metrics/request-metrics.ts';
import { createRegistry, MetricsPage } from './metrics/route.ts';
import { type AssetsOf, ServedModels } from './models/served-models.ts';
import { openapiDocument } from './openapi/document.ts';
import { createRoutes } from './routes.ts';
import type { RoutingControl } from './routing/control.ts';
import { RunningRequests } from './running-requests.ts';

export interface HttpServerParts {
  readonly engine: EngineClient;
  /** Absent: one engine, and nothing to say about the way to it. */
  readonly routing?: RoutingControl;
  readonly assetsOf: AssetsOf;
  /** Absent: there is one service process only. */
  readonly group?: () => GroupReport;
  readonly log: Log;
  /** Absent: no traces. */
  readonly tracer?: Tracer | null;
  readonly config?: Partial<HttpConfig>;
  readonly clock?: Clock;
  /** Seconds since 1970. */
  readonly epochS?: () => number;
  /** 64 random bits. */
  readonly randomSeed?: () => bigint;
}

export interface HttpServer {
  /** Resolves with the base URL. Throws XllmError `address_in_use` or `usage`. */
  listen(): Promise<string>;
  /**
   * Refuses new generations, `/ready` turns false; closes once the running ones are done, or cancels what is left
   * after `deadlineMs`. Resolves with how many were cancelled.
   */
  drain(deadlineMs: number): Promise<number>;
  /** Closes now; requests that run end with an error. */
  close(): Promise<void>;
  /** Generations that run. */
  numRunning(): number;
}

/** How often connections that have become idle are looked for while closing, and when the rest is cut. */
const IDLE_CHECK_MS = 50;
const CLOSE_GRACE_MS = 5_000;

const alone = (): GroupReport => ({ replica: 'service', replicas: [], writer: 'service', summary: null });

export function createHttpServer(parts: HttpServerParts): HttpServer {
  const config = { ...defaultHttpConfig, ...parts.config };
  const registry = createRegistry();
  const context: HttpContext = {
    engine: parts.engine,
    routing: parts.routing ?? null,
    group: parts.group ?? alone,
    log: parts.log,
    config,
    clock: parts.clock ?? monotonicClock,
    epochS: parts.epochS ?? (() => Math.floor(Date.now() / 1000)),
    randomSeed: parts.randomSeed ?? (() => randomBytes(8).readBigUInt64LE()),
    models: new ServedModels(parts.engine, parts.assetsOf, {
      aliases: config.servedModelNames,
      expected: config.expectedModels,
    }),
    metrics: new RequestMetrics(registry),
    tracer: parts.tracer ?? null,
    running: new RunningRequests(),
  };
  let document: object | null = null;
  const routes = createRoutes(context, new MetricsPage(context, registry), () => {
    document ??= openapiDocument(routes);
    return document;
  });
  const app = createApp(context, routes);
  return new Server(app, context);
}

class Server implements HttpServer {
  readonly #app: FastifyInstance;
  readonly #context: HttpContext;
  #closing: Promise<void> | null = null;

  constructor(app: FastifyInstance, context: HttpContext) {
    this.#app = app;
    this.#context = context;
  }

  numRunning(): number {
    return this.#context.running.count;
  }

  async listen(): Promise<string> {
    const { host, port, apiKeys } = this.#context.config;
    if (apiKeys.length === 0 && !isLoopback(host)) {
      this.#context.log.warn(
        `anyone who can reach ${host}:${port} can use this server: set --api-key-file or XLLM_API_KEY`,
      );
    }
    try {
      const address = await this.#app.listen({ host, port });
      return address.replace(/\/\/(0\.0\.0\.0|\[::\])/, '//127.0.0.1');
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'EADDRINUSE') {
        throw new XllmError(
          'address_in_use',
          `${host}:${port} is taken; stop what runs there, or choose another --port.`,
          {
            cause: error,
          },
        );
      }
      if (code === 'EACCES' || code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') {
        throw new XllmError('usage', `cannot listen on ${host}:${port} (${code}); check --host and --port.`, {
          cause: error,
        });
      }
      throw error;
    }
  }

  async drain(deadlineMs: number): Promise<number> {
    const numCancelled = await this.#context.running.drain(deadlineMs);
    await this.close();
    return numCancelled;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#context.running.drain(0);
    const { server } = this.#app;
    // close() waits for idle keep-alive connections, and those that become idle later are nobody's business but ours.
    const sweep = setInterval(() => server.closeIdleConnections(), IDLE_CHECK_MS);
    const cut = setTimeout(() => server.closeAllConnections(), CLOSE_GRACE_MS);
    try {
      await this.#app.close();
    } finally {
      clearInterval(sweep);
      clearTimeout(cut);
    }
  }
}
