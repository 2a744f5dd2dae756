// Owns session affinity: requests of one key stay on one instance, without any state, until that would cost too much.
import { type Candidate, type Choice, type RoutingRequest } from './policy.ts';

/** A session gives way where its instance answers this much later than the soonest one. */
const patienceMs = 250;
const patienceFactor = 2;

/** The session's instance, or null: there is no session, or it is better served elsewhere now. */
export function sessionChoice(request: RoutingRequest, candidates: readonly Candidate[]): Choice | null {
  const { sessionKey } = request;
  if (sessionKey === '') return null;
  // Rendezvous hashing: when an instance goes only its own sessions move, and every replica agrees.
  let best: { readonly candidate: Candidate; readonly weight: number } | null = null;
  for (const candidate of candidates) {
    const weight = hashOf(`${sessionKey}\0${candidate.instance.name}`);
    if (!best || weight > best.weight) best = { candidate, weight };
  }
  if (!best) return null;
  const soonestMs = Math.min(...candidates.map(({ ttftMs }) => ttftMs));
  if (best.candidate.ttftMs > patienceMs + patienceFactor * soonestMs) return null;
  return { candidate: best.candidate, reason: "its session's instance" };
}

/** FNV-1a with a final mix, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}
