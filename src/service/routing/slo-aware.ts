// Owns SLO-aware routing: within the objectives for first and later tokens where that can be, by predicted times and memory.
import { type Candidate, leastBy, type RoutingPolicy, type RoutingRequest } from './policy.ts';

export const sloAware: RoutingPolicy = (request, candidates) => {
  const pressure = (candidate: Candidate) => pressureOf(candidate, request);
  const meeting = candidates.filter((candidate) => candidate.hasMemory && pressure(candidate) <= 1);
  if (meeting.length > 0) {
    const candidate = leastBy(meeting, request.ordinal, pressure);
    return { candidate, reason: `within both objectives, ${percent(pressure(candidate))} of the tighter one used` };
  }
  // Whatever is done an objective is missed: the least late one, and of those without memory none while there are others.
  const withMemory = candidates.filter(({ hasMemory }) => hasMemory);
  const candidate = leastBy(withMemory.length > 0 ? withMemory : candidates, request.ordinal, pressure);
  return {
    candidate,
    reason: `no instance meets both objectives; here ${percent(pressure(candidate))} of the tighter one`,
  };
};

/** Share of the tighter objective that is used up; above 1 it is missed. */
export function pressureOf({ ttftMs, stepMs }: Candidate, { ttftSloMs, tpotSloMs }: RoutingRequest): number {
  return Math.max(ttftMs / ttftSloMs, stepMs / tpotSloMs);
}

const percent = (share: number) => `${Math.round(share * 100)} %`;
