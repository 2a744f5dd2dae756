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

export interface InstanceCapacity {
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  /** Prompts of more tokens are computed one after the other; shorter ones pass them. */
  readonly longPrefillThreshold: number;
  readonly numKvBlocks: number;
  /** Tokens per KV block: what digests are computed over. */
  readonly blockTokens: number;
  readonly maxModelLen: number;
}

/** As of the latest heartbeat (four times a second). */
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

/** Largest latencies of the quarter second before the latest heartbeat; 0: no token was produced. */
export interface InstanceLatency {
  readonly maxTtftMs: number;
  readonly maxTokenGapMs: number;
}

export interface InstanceView {
  /** Unique in the cluster; one at a time. */
  readonly name: string;
  /** One life of its process. */
  readonly incarnation: string;
  readonly address: string;
  readonly build: string;
  readonly model: string;
  /** Roles that it can take. */
  readonly roles: readonly InstanceRole[];
  readonly state: InstanceState;
  /** Whether new requests may go there: not SUSPECT, connected, not draining. */
  readonly isSchedulable: boolean;
  readonly isConnected: boolean;
  readonly isDraining: boolean;
  /** Instances with another fingerprint are never paired, and recovery to one promises no identical text. */
  readonly numericsId: string;
  /** Shape of a KV page: pages travel only between equal ones. */
  readonly kvLayout: string;
  readonly capacity: InstanceCapacity;
  readonly load: InstanceLoad;
  readonly latency: InstanceLatency;
  /** What this replica has sent since the load was measured, and the load therefore cannot show. */
  readonly unreported: { readonly numRequests: number; readonly numPromptTokens: number };
  /** Blocks that its prefix cache holds. */
  readonly numCachedBlocks: number;
  /** Requests of this replica that run there. */
  readonly numInFlight: number;
  /** What its steps cost, as the instance itself fits it to those that it runs; null: it has run too few. */
  readonly stepTime: StepTimeModel | null;
  /** Milliseconds since its last step while it has work, as the latest heartbeat says. */
  readonly stalledMs: number;
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
