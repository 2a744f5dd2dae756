// Owns the figures that come from the engine's status, fetched when someone scrapes.
// Names as in vLLM's docs/design/metrics.md where it has the figure, else xllm:*.
import { Counter, Gauge, type Registry } from 'prom-client';
import type { ServedModels } from '../models/served-models.ts';
import type { StatusReply } from '../../../contract/generated/xllm_pb.js';
import type { InstanceStatus } from '../../engine-client.ts';

const LABELS = ['model_name', 'engine'] as const;
type Label = (typeof LABELS)[number];

interface Figure {
  readonly kind: 'gauge' | 'counter';
  readonly help: string;
  readonly read: (status: StatusReply) => number;
}

const counter = (help: string, read: (status: StatusReply) => bigint, scale = 1): Figure => ({
  kind: 'counter',
  help,
  read: (status) => Number(read(status)) * scale,
});
const gauge = (help: string, read: (status: StatusReply) => number): Figure => ({ kind: 'gauge', help, read });

const figures: Readonly<Record<string, Figure>> = {
  'vllm:num_requests_running': gauge('Sequences in the running batch.', (s) => s.numRunning),
  'vllm:num_requests_waiting': gauge('Sequences waiting to be scheduled.', (s) => s.numWaiting),
  'vllm:kv_cache_usage_perc': gauge('Share of KV blocks in use; 1 is all.', (s) =>
    s.numKvBlocks === 0 ? 0 : s.numKvBlocksUsed / s.numKvBlocks,
  ),
  'vllm:prefix_cache_queries_total': counter(
    'Prompt tokens looked up in the prefix cache.',
    (s) => s.prefixCacheQueries,
  ),
  'vllm:prefix_cache_hits_total': counter('Prompt tokens found in the prefix cache.', (s) => s.prefixCacheHits),
  'vllm:num_preemptions_total': counter('Preemptions.', (s) => s.numPreemptions),
  'xllm:prompt_tokens_computed_total': counter('Prompt tokens that a step computed.', (s) => s.promptTokensComputed),
  'xllm:engine_steps_total': counter('Steps (forward passes).', (s) => s.steps),
  'xllm:engine_event_loop_cpu_seconds_total': counter(
    'CPU time of the event loop, planning to send.',
    (s) => s.eventLoopCpuUs,
    1e-6,
  ),
  'xllm:engine_event_loop_cpu_seconds_per_step': gauge('The same per step, over the life of the engine.', (s) =>
    s.steps === 0n ? 0 : Number(s.eventLoopCpuUs) / Number(s.steps) / 1e6,
  ),
  'xllm:step_time_prediction_error': gauge(
    'Running mean of |predicted - measured| / measured of step times.',
    (s) => s.stepTime?.error ?? 0,
  ),
  'xllm:queued_prompt_tokens': gauge('Tokens that wait or are in prefill and are not computed yet.', (s) =>
    Number(s.numQueuedTokens),
  ),
  'xllm:handoff_out_total': counter('Sequences handed over to another engine.', (s) => s.handOff?.handedOver ?? 0n),
  'xllm:handoff_in_total': counter('Sequences taken over from another engine.', (s) => s.handOff?.taken ?? 0n),
  'xllm:handoff_kept_total': counter('Sequences that were to leave, and stayed.', (s) => s.handOff?.kept ?? 0n),
  'xllm:handoff_pushed_blocks_total': counter('KV blocks sent over TCP.', (s) => s.handOff?.blocksPushed ?? 0n),
  'xllm:handoff_pushed_bytes_total': counter('Bytes of KV sent over TCP.', (s) => s.handOff?.bytesPushed ?? 0n),
  'xllm:handoff_lent_blocks_total': counter(
    'KV blocks handed over in place: nothing was sent.',
    (s) => s.handOff?.blocksLent ?? 0n,
  ),
  'xllm:handoff_bytes_before_first_decode_total': counter(
    'Bytes of KV moved or copied before the first step of sequences taken over.',
    (s) => s.handOff?.bytesBeforeFirstStep ?? 0n,
  ),
  'xllm:handoff_copied_bytes_total': counter(
    'Bytes of KV copied in the background after it.',
    (s) => s.handOff?.bytesCopied ?? 0n,
  ),
  'xllm:handoff_open': gauge('Transfers, rooms kept and sequences on pages of others.', (s) => s.handOff?.numOpen ?? 0),
  'xllm:handoff_pages_out': gauge('Pages that other engines have.', (s) => s.handOff?.pagesOut ?? 0),
  'xllm:engine_compute_seconds_total': counter('Time spent computing steps.', (s) => s.computeUs, 1e-6),
  'xllm:engine_stalled_seconds': gauge('Time since the last step while work is pending.', (s) => s.stalledMs / 1000),
  'xllm:kv_cache_bytes': gauge('Size of the KV pool.', (s) => Number(s.kvBytes)),
  'xllm:engine_resident_memory_bytes': gauge('Resident memory of the engine process.', (s) => Number(s.rssBytes)),
};

export class EngineMetrics {
  readonly #gauges: { readonly gauge: Gauge<Label>; readonly figure: Figure }[] = [];
  readonly #counters: { readonly name: string; readonly counter: Counter<Label>; readonly figure: Figure }[] = [];
  readonly #up: Gauge<Label>;
  readonly #graphModes: Counter<Label | 'mode'>;
  readonly #pages: Gauge<Label | 'state'>;
  /** By engine, metric and label: the engine's own total, last seen. */
  readonly #seen = new Map<string, number>();

  constructor(registry: Registry) {
    const registers = [registry];
    for (const [name, figure] of Object.entries(figures)) {
      const options = { name, help: figure.help, labelNames: LABELS, registers };
      if (figure.kind === 'gauge') this.#gauges.push({ gauge: new Gauge(options), figure });
      else this.#counters.push({ name, counter: new Counter(options), figure });
    }
    this.#up = new Gauge({ name: 'xllm:engine_up', help: '1: the engine answers.', labelNames: LABELS, registers });
    this.#graphModes = new Counter({
      name: 'xllm:graph_mode_steps_total',
      help: 'Steps by graph mode: full, partial, eager.',
      labelNames: [...LABELS, 'mode'],
      registers,
    });
    this.#pages = new Gauge({
      name: 'xllm:kv_pages',
      help: 'KV pages by state.',
      labelNames: [...LABELS, 'state'],
      registers,
    });
  }

  /** One status per engine; null: it does not answer. Its gauges then say 0, its counters keep what they have. */
  update(models: ServedModels, statuses: readonly InstanceStatus[]): void {
    this.#up.reset();
    this.#pages.reset();
    // The one engine that is expected is down, and not unheard of.
    if (statuses.length === 0) this.#updateOne(models.names[0] ?? '', '0', null);
    for (const { instance, model, status } of statuses)
      this.#updateOne(models.nameOf(model), engineLabel(instance), status);
  }

  #updateOne(model: string, engine: string, status: StatusReply | null): void {
    const labels = { model_name: model, engine };
    this.#up.set(labels, status ? 1 : 0);
    for (const { gauge, figure } of this.#gauges) gauge.set(labels, status ? figure.read(status) : 0);
    if (!status) return;
    for (const { name, counter, figure } of this.#counters) {
      counter.inc(labels, this.#increase(`${engine} ${name}`, figure.read(status)));
    }
    for (const [mode, steps] of Object.entries(status.graphModeSteps)) {
      this.#graphModes.inc({ ...labels, mode }, this.#increase(`${engine} mode ${mode}`, Number(steps)));
    }
    for (const [state, pages] of Object.entries(status.pageStates)) {
      this.#pages.set({ ...labels, state }, Number(pages));
    }
  }

  /** A total below the last one is that of a new engine process: all of it is new. */
  #increase(name: string, total: number): number {
    const seen = this.#seen.get(name) ?? 0;
    this.#seen.set(name, total);
    return total >= seen ? total - seen : total;
  }
}

/** vLLM numbers its engines: `engine-3` is engine 3; other names stay. */
export function engineLabel(instance: string): string {
  return /^engine-(\d+)$/.exec(instance)?.[1] ?? instance;
}
