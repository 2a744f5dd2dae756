// Owns least-load: the instance with the fewest sequences, running, waiting or on their way.
import { type Candidate, leastBy, type RoutingPolicy } from './policy.ts';

export const leastLoad: RoutingPolicy = ({ ordinal }, candidates) => {
  const candidate = leastBy(candidates, ordinal, numSequences);
  return { candidate, reason: `${numSequences(candidate)} sequences, the fewest` };
};

function numSequences({ instance: { load, unreported } }: Candidate): number {
  return load.numRunning + load.numWaiting + unreported.numRequests;
}
