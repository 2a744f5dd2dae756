// Owns how a routing decision is told: in a request's log, and in its trace.
import type { Refusal } from '../../common/errors.ts';
import type { Span } from '../../common/trace.ts';
import type { RoutingDecision } from '../routing/router.ts';
import type { RequestEvent } from './request-log.ts';

export function endRoute(
  span: Span | undefined,
  { instance, policy, reason }: RoutingDecision,
  refusal: Refusal | null,
): void {
  const attributes = { 'xllm.instance': instance, 'xllm.policy': policy, 'xllm.reason': reason };
  span?.end(attributes, refusal ? { error: `${refusal.refused}: ${refusal.message}` } : {});
}

export function explained({ policy, reason, candidates, decode }: RoutingDecision): RequestEvent['detail'] {
  const round = (ms: number) => Math.round(ms * 10) / 10;
  return {
    policy,
    reason,
    ...(decode ? { handOffTo: decode.instance.name } : {}),
    candidates: candidates.map(({ instance, cachedTokens, ttftMs, stepMs, hasMemory }) => ({
      instance: instance.name,
      cachedTokens,
      predictedTtftMs: round(ttftMs),
      predictedStepMs: round(stepMs),
      hasMemory,
      numRunning: instance.load.numRunning,
      numWaiting: instance.load.numWaiting + instance.unreported.numRequests,
    })),
  };
}
