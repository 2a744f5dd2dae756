// Owns the figures of routing and recovery, read when someone scrapes.
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { RoutingControl } from '../routing/control.ts';
import { engineLabel } from './engine-metrics.ts';

const PAUSE_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export class RoutingMetrics {
  readonly #routing: RoutingControl;
  readonly #decisions: Counter<'engine' | 'policy'>;
  readonly #recoveries: Counter<'outcome'>;
  readonly #migrations: Counter;
  readonly #handOff: Histogram;
  readonly #ttftError: Gauge<'engine'>;
  /** Totals last seen. */
  readonly #seen = new Map<string, number>();

  constructor(registry: Registry, routing: RoutingControl) {
    const registers = [registry];
    this.#routing = routing;
    this.#decisions = new Counter({
      name: 'xllm:routing_decisions_total',
      help: 'Requests sent to an engine, by policy; a recovered one counts again.',
      labelNames: ['engine', 'policy'],
      registers,
    });
    this.#recoveries = new Counter({
      name: 'xllm:request_recoveries_total',
      help: 'Requests whose engine failed: taken over by another, or failed.',
      labelNames: ['outcome'],
      registers,
    });
    this.#migrations = new Counter({
      name: 'xllm:request_migrations_total',
      help: 'Requests that went on elsewhere while their instance lived.',
      registers,
    });
    const pauses = new Histogram({
      name: 'xllm:request_migration_pause_seconds',
      help: 'Of a migrated request, from its last token before to the first one after.',
      buckets: PAUSE_S,
      registers,
    });
    routing.onMoved((pauseMs) => {
      if (pauseMs !== null) pauses.observe(pauseMs / 1_000);
    });
    this.#handOff = new Histogram({
      name: 'xllm:handoff_seconds',
      help: 'From the first token of a prefill instance to the first one of its decode instance.',
      buckets: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5],
      registers,
    });
    this.#ttftError = new Gauge({
      name: 'xllm:ttft_prediction_error',
      help: 'Running mean of |predicted - measured| / measured of first tokens, from sending on.',
      labelNames: ['engine'],
      registers,
    });
  }

  update(): void {
    const { figures } = this.#routing;
    const { decisions, numRecoveries, numRecoveryFailures, numMigrations, ttftErrors } = figures;
    for (const { instance, policy, count } of decisions) {
      const labels = { engine: engineLabel(instance), policy };
      this.#decisions.inc(labels, this.#increase(`${instance} ${policy}`, count));
    }
    for (const ms of figures.takeHandOffMs()) this.#handOff.observe(ms / 1_000);
    this.#recoveries.inc({ outcome: 'continued' }, this.#increase('continued', numRecoveries));
    this.#recoveries.inc({ outcome: 'failed' }, this.#increase('failed', numRecoveryFailures));
    this.#migrations.inc(this.#increase('migrations', numMigrations));
    this.#ttftError.reset();
    for (const { instance, error } of ttftErrors) this.#ttftError.set({ engine: engineLabel(instance) }, error);
  }

  #increase(name: string, total: number): number {
    const seen = this.#seen.get(name) ?? 0;
    this.#seen.set(name, total);
    return total - seen;
  }
}
