// Owns cache-aware routing: the instance that is expected to answer first, given what each holds and what each has to do.
// A match is worth the time that it saves, here and for those who come after; an idle instance takes over wherever it
// recomputes sooner, so that no prefix makes a hot spot.
import { type Candidate, leastBy, type RoutingPolicy } from './policy.ts';

/** Recomputing what another instance holds delays later requests: what a millisecond of it weighs against waiting. */
const workWeight = 1;

/** An idle instance takes over where it is expected to be clearly sooner: predictions are off by a fifth now and then. */
const clearly = 0.8;

export const cacheAware: RoutingPolicy = ({ ordinal }, candidates) => {
  const cost = ({ ttftMs, computeMs }: Candidate) => ttftMs + workWeight * computeMs;
  const cheapest = leastBy(candidates, ordinal, cost);
  const idle = candidates.filter((candidate) => isIdle(candidate) && candidate.ttftMs < clearly * cheapest.ttftMs);
  const candidate = idle.length > 0 ? leastBy(idle, ordinal, cost) : cheapest;
  const held = Math.max(...candidates.map(({ cachedTokens }) => cachedTokens));
  const match = `${candidate.cachedTokens} tokens cached`;
  if (candidate.cachedTokens === held) return { candidate, reason: `the least waiting and work, ${match}` };
  return { candidate, reason: `the least waiting and work, ${match}; where ${held} are, it would wait longer` };
};

function isIdle({ instance: { load, unreported } }: Candidate): boolean {
  return load.numRunning + load.numWaiting + unreported.numRequests === 0;
}
