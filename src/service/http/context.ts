// Owns what every route is given.
import type { Clock } from '../../common/clock.ts';
import type { Log } from '../../common/log.ts';
import type { Tracer } from '../../common/trace.ts';
import type { EngineClient } from '../engine-client.ts';
import type { GroupReport } from '../engines/service-group.ts';
import type { HttpConfig } from './config.ts';
import type { RequestRecord } from './generation/record.ts';
import type { RequestMetrics } from './metrics/request-metrics.ts';
import type { ServedModels } from './models/served-models.ts';
import type { RoutingControl } from './routing/control.ts';
import type { RunningRequests } from './running-requests.ts';

export interface HttpContext {
  readonly engine: EngineClient;
  /** null: there is nothing to route. */
  readonly routing: RoutingControl | null;
  /** The service replicas, and which of them writes. */
  readonly group: () => GroupReport;
  readonly config: HttpConfig;
  readonly log: Log;
  readonly clock: Clock;
  /** Seconds since 1970, for `created`. */
  readonly epochS: () => number;
  /** 64 random bits, for a request without a seed. */
  readonly randomSeed: () => bigint;
  readonly models: ServedModels;
  readonly metrics: RequestMetrics;
  /** null: no traces. */
  readonly tracer: Tracer | null;
  readonly running: RunningRequests;
}

declare module 'fastify' {
  interface FastifyRequest {
    record: RequestRecord;
  }
}
