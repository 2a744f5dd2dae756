// Owns the figures of each instance as this replica sees it: state, silence, its part of the KV index.
import { Gauge, type Registry } from 'prom-client';
import type { InstanceState, InstanceView } from '../../registry/cluster-view.ts';
import type { ServedModels } from '../models/served-models.ts';
import { engineLabel } from './engine-metrics.ts';

const LABELS = ['model_name', 'engine'] as const;
type Label = (typeof LABELS)[number];

const states: readonly InstanceState[] = ['ACTIVE', 'LEASE_LOST', 'SUSPECT'];

const figures: Readonly<Record<string, { readonly help: string; readonly read: (instance: InstanceView) => number }>> =
  {
    'xllm:instance_schedulable': {
      help: '1: new requests may go there.',
      read: ({ isSchedulable }) => Number(isSchedulable),
    },
    'xllm:instance_silent_seconds': {
      help: 'Time since it was last heard of.',
      read: ({ silentMs }) => silentMs / 1_000,
    },
    'xllm:instance_requests_in_flight': {
      help: 'Requests of this replica that run there.',
      read: ({ numInFlight }) => numInFlight,
    },
    'xllm:instance_index_blocks': {
      help: 'Blocks of its prefix cache that the KV index knows.',
      read: ({ numCachedBlocks }) => numCachedBlocks,
    },
    'xllm:instance_max_ttft_seconds': {
      help: 'Largest time to first token since the heartbeat before.',
      read: ({ latency }) => latency.maxTtftMs / 1_000,
    },
  };

export class InstanceMetrics {
  readonly #gauges: { readonly gauge: Gauge<Label>; readonly read: (instance: InstanceView) => number }[];
  readonly #state: Gauge<Label | 'state'>;

  constructor(registry: Registry) {
    const registers = [registry];
    this.#gauges = Object.entries(figures).map(([name, { help, read }]) => ({
      gauge: new Gauge({ name, help, labelNames: LABELS, registers }),
      read,
    }));
    this.#state = new Gauge({
      name: 'xllm:instance_state',
      help: '1 for the state that it is in: ACTIVE, LEASE_LOST, SUSPECT.',
      labelNames: [...LABELS, 'state'],
      registers,
    });
  }

  update(models: ServedModels, instances: readonly InstanceView[]): void {
    this.#state.reset();
    for (const { gauge } of this.#gauges) gauge.reset();
    for (const instance of instances) {
      const labels = { model_name: models.nameOf(instance.model), engine: engineLabel(instance.name) };
      for (const { gauge, read } of this.#gauges) gauge.set(labels, read(instance));
      for (const state of states) this.#state.set({ ...labels, state }, Number(instance.state === state));
    }
  }
}
