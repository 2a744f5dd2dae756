// Owns what a routing policy sees of the cluster: an immutable picture of every instance, and the KV index behind it.
import type { BlockDigest } from '../../common/block-digest.ts';
import type { StepTimeModel } from '../../common/step-time.ts';

/** What an instance can do; `mix` does prefill and decode. */
export type InstanceRole = 'prefill' | 'decode' | 'encode' | 'mix';

/**
 * ACTIVE: registered and heard of. LEASE_LOST: the coordinator no longer lists it, yet it answers (the coordinator
 * may be at fault): it keeps its work and takes more. SUSPECT: silent; it takes nothing new.
 */
export type InstanceState = 'ACTIVE' | 'LEASE_LOST' | 'SUSPECT';

/** One measured step: what it computed, what it read, how long it took. */
export interface StepTimePoint {
  /** Tokens computed: the prompt tokens of prefills plus one per decoding sequence. */
  readonly numTokens: number;
  /** Sequences in the step. */
  readonly numSeqs: number;
  /** Sum over the step's sequences of the KV positions that they read. */
  readonly contextTokens: number;
  readonly ms: number;
}

export interface InstanceCapacity {
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly numKvBlocks: number;
  /** Tokens per KV block: what digests are computed over. */
  readonly blockTokens: number;
  readonly maxModelLen: number;
}

/** As of the latest heartbeat (twice a second). */
export interface InstanceLoad {
  /** Sequences in the running batch. */
  readonly numRunning: number;
  /** Sequences waiting for their first step. */
  readonly numWaiting: number;
  /** Prompt tokens that wait or are being prefilled and are not computed yet. */
  readonly numQueuedTokens: number;
  /** Tokens of the running sequences: what a decode step reads. */
  readonly numContextTokens: number;
  readonly numKvBlocksUsed: number;
}

export interface InstanceView {
  /** Unique in the cluster; one at a time. */
  readonly name: string;
  /** One life of its process. */
  readonly incarnation: string;
  readonly model: string;
  readonly roles: readonly InstanceRole[];
  readonly state: InstanceState;
  /** Whether new requests may go there: not SUSPECT, connected, not draining. */
  readonly isSchedulable: boolean;
  /** Instances with another fingerprint are never paired, and recovery to one promises no identical text. */
  readonly numericsId: string;
  readonly capacity: InstanceCapacity;
  readonly load: InstanceLoad;
  /** What this replica has sent since the load was measured, and the load therefore cannot show. */
  readonly unreported: { readonly numRequests: number; readonly numPromptTokens: number };
  /** Requests of this replica that run there. */
  readonly numInFlight: number;
  /** What its steps cost, as it has learned from live ones; null: it has not said. */
  readonly stepTime: StepTimeModel | null;
  /** Measured at its start; what predictors begin with. Empty: nothing is known. */
  readonly profile: readonly StepTimePoint[];
  /** Steps that the latest heartbeat reports, for refitting. */
  readonly recentSteps: readonly StepTimePoint[];
  /** Milliseconds since it was last heard of, at `ClusterView.nowMs`. */
  readonly silentMs: number;
}

export interface ClusterView {
  /** When the picture was taken, on the service's monotonic clock. */
  readonly nowMs: number;
  /** In order of their names. SUSPECT ones are listed too: `isSchedulable` tells. */
  readonly instances: readonly InstanceView[];
  /**
   * How many of the leading `digests` the instance's prefix cache holds, as its events tell at the time of the call.
   * 0 for an unknown instance. The digests' seed holds model and numericsId: compute them per (model, numericsId).
   */
  prefixBlocks(instance: string, digests: readonly BlockDigest[]): number;
}
