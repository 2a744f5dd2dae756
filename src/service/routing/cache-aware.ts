// Owns cache-aware routing: the instance that is expected to answer first, given what each holds and what each has to do.
// A match is worth the time that it saves and no more, so that an idle instance takes over where it recomputes sooner.
import { type Candidate, leastBy, type RoutingPolicy } from './policy.ts';

/** Predictions closer than this are equal; then the longer match wins, which costs the cluster less. */
const equalShare = 0.02;

export const cacheAware: RoutingPolicy = ({ ordinal }, candidates) => {
  const soonestMs = Math.min(...candidates.map(({ ttftMs }) => ttftMs));
  const equals = candidates.filter(({ ttftMs }) => ttftMs <= soonestMs * (1 + equalShare));
  const longest = Math.max(...equals.map(({ cachedTokens }) => cachedTokens));
  const matching = equals.filter(({ cachedTokens }) => cachedTokens === longest);
  const candidate = leastBy(matching, ordinal, loadOf);
  const held = Math.max(...candidates.map(({ cachedTokens }) => cachedTokens));
  const match = `${candidate.cachedTokens} tokens cached`;
  return {
    candidate,
    reason:
      candidate.cachedTokens === held
        ? `first token soonest, ${match}`
        : `first token soonest, ${match}; where ${held} are, it would come later`,
  };
};

function loadOf({ instance: { load, unreported } }: Candidate): number {
  return load.numRunning + load.numWaiting + unreported.numRequests;
}
