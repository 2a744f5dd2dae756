// Owns the seam of routing: what a policy is asked, what it answers, and what it may look at.
import type { BlockDigest } from '../../common/block-digest.ts';
import type { ClusterView, InstanceView } from '../registry/cluster-view.ts';

/** A request as far as routing goes. */
export interface RoutingRequest {
  /** Place in the order of arrival at this replica: what turns are taken by, and what breaks ties. */
  readonly ordinal: number;
  readonly model: string;
  /** Tokens that must be in the KV cache before the next one is sampled. */
  readonly numPromptTokens: number;
  /** Tokens that may follow, per sequence. */
  readonly maxTokens: number;
  readonly numSeqs: number;
  /** Requests of one session go to one instance while that costs little; '': no session. */
  readonly sessionKey: string;
  /** Objectives in milliseconds: the request's own or the operator's. */
  readonly ttftSloMs: number;
  readonly tpotSloMs: number;
  /** Digests of the prompt's full blocks, as this instance computes them. */
  digestsFor(instance: InstanceView): readonly BlockDigest[];
}

/** An instance that could take the request, and what is expected there. */
export interface Candidate {
  readonly instance: InstanceView;
  /** Prompt tokens whose KV it holds. */
  readonly cachedTokens: number;
  /** Until the first token, queueing included. */
  readonly ttftMs: number;
  /** Of that, computing what of the prompt is not cached: work that the cluster is spared elsewhere. */
  readonly computeMs: number;
  /** Of a decode step once the request is in it: the time per output token. */
  readonly stepMs: number;
  /** Whether its free KV blocks hold prompt and answer. */
  readonly hasMemory: boolean;
}

/** The chosen candidate, and why in a few words for people. */
export interface Choice {
  readonly candidate: Candidate;
  readonly reason: string;
}

/** Chooses among at least one candidate. Pure: equal arguments, equal choice. */
export type RoutingPolicy = (request: RoutingRequest, candidates: readonly Candidate[], view: ClusterView) => Choice;

/** The candidate for which `cost` is least; among equals turns are taken, so that ties never all go to one. */
export function leastBy(
  candidates: readonly Candidate[],
  ordinal: number,
  cost: (candidate: Candidate) => number,
): Candidate {
  const costs = candidates.map(cost);
  const least = Math.min(...costs);
  const best = candidates.filter((_, i) => costs[i] === least);
  // Nothing compares (NaN): any of them.
  const pool = best.length > 0 ? best : candidates;
  const chosen = pool[ordinal % pool.length];
  if (!chosen) throw new Error('invariant broken: a policy was asked without candidates');
  return chosen;
}
