// Owns one instance as the registry keeps it: its record, its health, its latest load, and what was sent there. Pure.
import type { StepTimeModel } from '../../common/step-time.ts';
import type { InstanceRecord } from '../../coordination/instance-record.ts';
import type { InstanceLatency, InstanceLoad, InstanceView } from './cluster-view.ts';
import { type Health, newHealth } from './instance-state.ts';

/** What a heartbeat tells. */
export interface Beat {
  readonly load: InstanceLoad;
  readonly latency: InstanceLatency;
  readonly stepTime: StepTimeModel | null;
  readonly stalledMs: number;
  readonly isDraining: boolean;
  /** Submissions of this replica that the load includes, counted since its connection began. */
  readonly numSubmits: number;
}

const noLoad: InstanceLoad = {
  numRunning: 0,
  numWaiting: 0,
  numQueuedTokens: 0,
  numContextTokens: 0,
  numKvBlocksUsed: 0,
};
const noLatency: InstanceLatency = { maxTtftMs: 0, maxTokenGapMs: 0 };

export class Instance {
  record: InstanceRecord;
  health: Health;
  #load = noLoad;
  #latency = noLatency;
  #stepTime: StepTimeModel | null;
  #isConnected = false;
  #isDraining = false;
  #numInFlight = 0;
  /** Prompt tokens of each submission that no heartbeat has shown yet, in order. */
  #unreported: number[] = [];
  /** Submissions that heartbeats have shown. */
  #numReported = 0;

  constructor(record: InstanceRecord, nowMs: number) {
    this.record = record;
    this.health = newHealth(nowMs);
    this.#stepTime = record.stepTime;
  }

  get isSchedulable(): boolean {
    return this.health.state !== 'SUSPECT' && this.#isConnected && !this.#isDraining;
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }

  setConnected(isConnected: boolean): void {
    this.#isConnected = isConnected;
    // Counts begin anew with each connection, and what ran on the last one has ended with it.
    this.#unreported = [];
    this.#numReported = 0;
    this.#numInFlight = 0;
  }

  take({ load, latency, stepTime, isDraining, numSubmits }: Beat): void {
    this.#load = load;
    this.#latency = latency;
    this.#stepTime = stepTime ?? this.#stepTime;
    this.#isDraining = isDraining;
    if (numSubmits <= this.#numReported) return;
    this.#unreported.splice(0, numSubmits - this.#numReported);
    this.#numReported = numSubmits;
  }

  sent(numPromptTokens: number): void {
    this.#numInFlight++;
    this.#unreported.push(numPromptTokens);
  }

  ended(): void {
    this.#numInFlight = Math.max(0, this.#numInFlight - 1);
  }

  view(nowMs: number, numCachedBlocks: number): InstanceView {
    const { name, incarnation, address, build, model, roles, numericsId, kvLayout, capacity } = this.record;
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
      isDraining: this.#isDraining,
      numericsId,
      kvLayout,
      capacity,
      load: this.#load,
      latency: this.#latency,
      unreported: {
        numRequests: this.#unreported.length,
        numPromptTokens: this.#unreported.reduce((sum, numTokens) => sum + numTokens, 0),
      },
      numCachedBlocks,
      numInFlight: this.#numInFlight,
      stepTime: this.#stepTime,
      silentMs: Math.max(0, nowMs - this.health.lastHeardMs),
    };
  }
}
