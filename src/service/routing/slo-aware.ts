// Owns SLO-aware routing: within the objectives for first and later tokens where that can be, by predicted times and memory.
// Where it cannot, a request goes where others are late already, so that those that can be in time still are.
import { type Candidate, leastBy, type RoutingPolicy, type RoutingRequest } from './policy.ts';

/** Of an objective, what a prediction may use up: it is off by a fifth now and then. */
const safeShare = 0.8;
/** A request is not sent where it would be later than so many times its objective. */
const patience = 10;

export const sloAware: RoutingPolicy = (request, candidates) => {
  const pressure = (candidate: Candidate) => pressureOf(candidate, request);
  const used = (candidate: Candidate) => `${Math.round(pressure(candidate) * 100)} % of the tighter objective used`;
  const withMemory = candidates.filter(({ hasMemory }) => hasMemory);
  const able = withMemory.length > 0 ? withMemory : candidates;
  const best = leastBy(able, request.ordinal, pressure);
  if (pressure(best) <= safeShare) return { candidate: best, reason: `within both objectives: ${used(best)}` };
  // Too long to be in time even alone: no queue is to blame, and none is to suffer.
  if (best.computeMs > safeShare * request.ttftSloMs)
    return { candidate: best, reason: `the least late: ${used(best)}` };
  const late = able.filter((candidate) => pressure(candidate) <= patience);
  const candidate = late.length > 0 ? leastBy(late, request.ordinal, (one) => -pressure(one)) : best;
  return { candidate, reason: `late everywhere, so here, where others are late too: ${used(candidate)}` };
};

/** Share of the tighter objective that is used up; above 1 it is missed. */
function pressureOf({ ttftMs, stepMs }: Candidate, { ttftSloMs, tpotSloMs }: RoutingRequest): number {
  return Math.max(ttftMs / ttftSloMs, stepMs / tpotSloMs);
}
