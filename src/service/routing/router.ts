// Owns a routing decision from request and view to an instance and the reasons for it. Pure but for what it has learned.
import type { ClusterView } from '../registry/cluster-view.ts';
import { type PolicyName, policies } from './policies.ts';
import type { Candidate, RoutingRequest } from './policy.ts';
import { candidatesOf } from './predict.ts';
import { sessionChoice } from './session.ts';
import { TtftCorrection } from './ttft-correction.ts';

export interface RoutingDecision {
  readonly instance: string;
  readonly policy: PolicyName;
  /** For people. */
  readonly reason: string;
  readonly chosen: Candidate;
  readonly candidates: readonly Candidate[];
}

export class Router {
  readonly correction = new TtftCorrection();
  policy: PolicyName;

  constructor(policy: PolicyName) {
    this.policy = policy;
  }

  /** null: no instance could take the request. `excluded`: instances that have been tried for it. */
  route(request: RoutingRequest, view: ClusterView, excluded: ReadonlySet<string>): RoutingDecision | null {
    const candidates = candidatesOf(request, view, excluded, (instance) => this.correction.factorOf(instance));
    if (candidates.length === 0) return null;
    const { policy } = this;
    const { candidate, reason } = sessionChoice(request, candidates) ?? policies[policy](request, candidates, view);
    return { instance: candidate.instance.name, policy, reason, chosen: candidate, candidates };
  }
}
