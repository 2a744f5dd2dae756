// Owns which instances can play which part of a request, and who goes on after the first token. Pure.
import type { ClusterView, InstanceView } from '../registry/cluster-view.ts';
import { canExchangeKv } from '../registry/groups.ts';
import { type Candidate, leastBy, type RoutingRequest } from './policy.ts';
import type { PolicyName } from './policies.ts';

/** Whether it could compute the prompt, given who is there to go on. */
export function canBegin(instance: InstanceView, view: ClusterView): boolean {
  if (instance.roles.includes('mix')) return true;
  return instance.roles.includes('prefill') && view.instances.some((other) => canFollow(instance, other));
}

/** Whether `other` could go on after `instance`. */
export function canFollow(instance: InstanceView, other: InstanceView): boolean {
  if (other.name === instance.name) return instance.roles.includes('mix');
  const decodes = other.roles.includes('decode') || (other.roles.includes('mix') && !instance.roles.includes('mix'));
  return decodes && other.isSchedulable && canExchangeKv(instance, other);
}

/** Whether `other` could take over what runs at `instance`. */
export function canMove(instance: InstanceView, other: InstanceView): boolean {
  const decodes = other.roles.includes('decode') || other.roles.includes('mix');
  return other.name !== instance.name && decodes && other.isSchedulable && canExchangeKv(instance, other);
}

/** Share of a step's time that it is worth to find the whole prompt's KV there: it need not travel. */
const heldWorth = 0.1;

/** By policy: what is least where a request should go on. */
const decodeCosts: Readonly<Record<PolicyName, (candidate: Candidate, request: RoutingRequest) => number>> = {
  'round-robin': () => 0,
  'least-load': ({ instance: { load, unreported } }) => load.numRunning + load.numWaiting + unreported.numRequests,
  'cache-aware': costOfSteps,
  'slo-aware': costOfSteps,
};

/** Among at least one: with memory where there is such, and then the shortest steps or what the policy goes by. */
export function chooseDecode(policy: PolicyName, request: RoutingRequest, candidates: readonly Candidate[]): Candidate {
  const withMemory = candidates.filter(({ hasMemory }) => hasMemory);
  const able = withMemory.length > 0 ? withMemory : candidates;
  return leastBy(able, request.ordinal, (candidate) => decodeCosts[policy](candidate, request));
}

/** An instance made for decoding that would answer within the objectives where those made for prompts are late. */
export function chooseOverflow(
  { ttftSloMs, tpotSloMs, ordinal }: RoutingRequest,
  chosen: Candidate,
  candidates: readonly Candidate[],
): Candidate | null {
  if (chosen.ttftMs <= ttftSloMs) return null;
  const inTime = candidates.filter(
    ({ ttftMs, stepMs, hasMemory }) => hasMemory && ttftMs <= ttftSloMs && stepMs <= tpotSloMs,
  );
  return inTime.length > 0 ? leastBy(inTime, ordinal, ({ ttftMs }) => ttftMs) : null;
}

function costOfSteps({ instance: { unreported }, stepMs, cachedTokens }: Candidate, request: RoutingRequest): number {
  const held = cachedTokens / Math.max(1, request.numPromptTokens);
  // Those on their way will be in the step too.
  return stepMs * (1 - heldWorth * held) * (1 + unreported.numRequests / 64);
}
