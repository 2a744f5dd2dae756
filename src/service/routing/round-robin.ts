// Owns round-robin: everybody in turn, whatever they have to do.
import { leastBy, type RoutingPolicy } from './policy.ts';

export const roundRobin: RoutingPolicy = ({ ordinal }, candidates) => ({
  candidate: leastBy(candidates, ordinal, () => 0),
  reason: `turn ${ordinal % candidates.length} of ${candidates.length}`,
});
