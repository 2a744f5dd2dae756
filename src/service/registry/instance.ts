// Owns one instance as the registry keeps it: its record, its health, its latest heartbeat, and what was sent there. Pure.
import type { Heartbeat } from '../../contract/generated/xllm_pb.js';
import type { InstanceRecord } from '../../coordination/instance-record.ts';
import type { InstanceView } from './cluster-view.ts';
import { type Health, newHealth } from './instance-state.ts';
import { LoadJournal } from './load-journal.ts';

export class Instance {
  record: InstanceRecord;
  health: Health;
  #journal = new LoadJournal();
  #beat: Heartbeat | null = null;
  #isConnected = false;

  constructor(record: InstanceRecord, nowMs: number) {
    this.record = record;
    this.health = newHealth(nowMs);
  }

  get isSchedulable(): boolean {
    return this.health.state !== 'SUSPECT' && this.#isConnected && !this.isDraining;
  }

  get isDraining(): boolean {
    return this.#beat?.status?.draining ?? false;
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }

  get beat(): Heartbeat | null {
    return this.#beat;
  }

  /** The engine counts anew with each connection, and what ran on the last one has ended with it. */
  connected(): LoadJournal {
    this.#isConnected = true;
    this.#journal = new LoadJournal();
    return this.#journal;
  }

  disconnected(): void {
    this.#isConnected = false;
  }

  take(beat: Heartbeat, nowMs: number): void {
    this.#beat = beat;
    if (beat.status) this.#journal.report(beat.status, Number(beat.numSubmits), nowMs);
  }

  view(nowMs: number, numCachedBlocks: number): InstanceView {
    const { name, incarnation, address, build, model, roles, numericsId, kvLayout, capacity, stepTime } = this.record;
    return {
      name,
      incarnation,
      address,
      build,
      model,
      roles,
      state: this.health.state,
      isSchedulable: this.isSchedulable,
      isConnected: this.#isConnected,
      isDraining: this.isDraining,
      numericsId,
      kvLayout,
      capacity,
      ...this.#journal.view(),
      latency: { maxTtftMs: this.#beat?.maxTtftMs ?? 0, maxTokenGapMs: this.#beat?.maxTokenGapMs ?? 0 },
      numCachedBlocks,
      numInFlight: this.#journal.numInFlight,
      stepTime: this.#beat?.status?.stepTime ?? stepTime,
      stalledMs: this.health.stalledMs,
      silentMs: Math.max(0, nowMs - this.health.lastHeardMs),
    };
  }
}
