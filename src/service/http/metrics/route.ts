// Owns GET /metrics: the service's own figures, and the engine's as of now.
import { Counter, Gauge, Registry } from 'prom-client';
import type { HttpContext } from '../context.ts';
import { statusesInTime } from '../health/status.ts';
import { EngineMetrics } from './engine-metrics.ts';
import { InstanceMetrics } from './instance-metrics.ts';
import { RoutingMetrics } from './routing-metrics.ts';

/** A registry with what any process reports about itself. */
export function createRegistry(): Registry {
  const registry = new Registry();
  const registers = [registry];
  new Gauge({
    name: 'process_resident_memory_bytes',
    help: 'Resident memory of the service process.',
    registers,
    collect() {
      this.set(process.memoryUsage.rss());
    },
  });
  let seen = 0;
  new Counter({
    name: 'process_cpu_seconds_total',
    help: 'CPU time of the service process.',
    registers,
    collect() {
      const { user, system } = process.cpuUsage();
      const total = (user + system) / 1e6;
      this.inc(total - seen);
      seen = total;
    },
  });
  return registry;
}

export class MetricsPage {
  readonly #context: HttpContext;
  readonly #registry: Registry;
  readonly #engine: EngineMetrics;
  readonly #instances: InstanceMetrics;
  readonly #routing: RoutingMetrics | null;

  constructor(context: HttpContext, registry: Registry) {
    this.#context = context;
    this.#registry = registry;
    this.#engine = new EngineMetrics(registry);
    this.#instances = new InstanceMetrics(registry);
    this.#routing = context.routing && new RoutingMetrics(registry, context.routing);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async render(): Promise<string> {
    const { engine, models } = this.#context;
    this.#engine.update(models, await statusesInTime(engine));
    this.#instances.update(models, engine.view().instances);
    this.#routing?.update();
    return this.#registry.metrics();
  }
}
