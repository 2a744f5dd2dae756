// Owns a routing decision from request and view to an instance and the reasons for it. Pure but for what it has learned.
import type { ClusterView, InstanceView } from '../registry/cluster-view.ts';
import { type PolicyName, policies } from './policies.ts';
import type { Candidate, RoutingRequest } from './policy.ts';
import { candidatesOf } from './predict.ts';
import { canBegin, canFollow, canMove, chooseDecode, chooseOverflow } from './pairs.ts';
import { sessionChoice } from './session.ts';
import { TtftCorrection } from './ttft-correction.ts';

export interface RoutingDecision {
  readonly instance: string;
  readonly policy: PolicyName;
  /** For people. */
  readonly reason: string;
  readonly chosen: Candidate;
  readonly candidates: readonly Candidate[];
  /** Who goes on after the first token; null: the same instance. */
  readonly decode: Candidate | null;
}

const noNames: ReadonlySet<string> = new Set();

export class Router {
  readonly correction = new TtftCorrection();
  policy: PolicyName;

  constructor(policy: PolicyName) {
    this.policy = policy;
  }

  /** null: no instance could take the request. `excluded`: instances that have been tried for it. */
  route(request: RoutingRequest, view: ClusterView, excluded: ReadonlySet<string>): RoutingDecision | null {
    const { policy } = this;
    const factorOf = (instance: string) => this.correction.factorOf(instance);
    const candidates = candidatesOf(request, view, excluded, factorOf, (instance) => canBegin(instance, view));
    if (candidates.length === 0) return null;
    const { candidate, reason } = sessionChoice(request, candidates) ?? policies[policy](request, candidates, view);
    const { instance } = candidate;
    const decision = { instance: instance.name, policy, reason, chosen: candidate, candidates, decode: null };
    if (policy === 'slo-aware') {
      const decoders = candidatesOf(request, view, excluded, factorOf, ({ roles }) => roles.includes('decode'));
      const overflow = chooseOverflow(request, candidate, decoders);
      if (overflow)
        return { ...decision, instance: overflow.instance.name, chosen: overflow, reason: `overflow; else ${reason}` };
    }
    // A mixed instance is among its own followers.
    const followers = candidatesOf(request, view, noNames, factorOf, (other) => canFollow(instance, other));
    if (followers.length === 0) return decision;
    const decode = chooseDecode(policy, request, followers);
    return { ...decision, decode: decode.instance.name === instance.name ? null : decode };
  }

  /** Who is to go on with what runs at `from`, KV and all; null: nobody could. */
  follow(
    request: RoutingRequest,
    view: ClusterView,
    from: InstanceView,
    { excluded, only }: { readonly excluded: ReadonlySet<string>; readonly only: string | undefined },
  ): RoutingDecision | null {
    const isAble = (other: InstanceView) => canMove(from, other) && (only === undefined || other.name === only);
    const factorOf = (instance: string) => this.correction.factorOf(instance);
    const candidates = candidatesOf(request, view, excluded, factorOf, isAble);
    if (candidates.length === 0) return null;
    const { policy } = this;
    const chosen = chooseDecode(policy, request, candidates);
    const reason = `decode steps of ${chosen.stepMs.toFixed(1)} ms`;
    return { instance: chosen.instance.name, policy, reason, chosen, candidates, decode: null };
  }
}
