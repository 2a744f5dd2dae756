// Owns the states of one instance as a service sees it: what is heard, what the coordinator says, and time. Pure.
import type { InstanceState } from './cluster-view.ts';

export interface HealthLimits {
  /** No heartbeat for this long: SUSPECT. */
  readonly silentMs: number;
  /** Work without a finished step for this long: SUSPECT, although it answers. */
  readonly stalledMs: number;
  /** SUSPECT without a registration for this long: removed. */
  readonly suspectMs: number;
}

export const defaultHealthLimits: HealthLimits = { silentMs: 3_000, stalledMs: 60_000, suspectMs: 15_000 };

export interface Health {
  readonly state: InstanceState;
  /** Whether the coordinator lists it. */
  readonly isLeased: boolean;
  /** Since when the coordinator lists it, or does not. */
  readonly leaseMs: number;
  readonly lastHeardMs: number;
  readonly stalledMs: number;
  /** Since when it has been in its state. */
  readonly sinceMs: number;
}

export type HealthEvent =
  /** The coordinator lists this incarnation (again). */
  | { readonly type: 'registered' }
  /** The coordinator has dropped it, and a call right after was answered, or was not. */
  | { readonly type: 'unregistered'; readonly answered: boolean }
  | { readonly type: 'heartbeat'; readonly stalledMs: number }
  | { readonly type: 'tick' };

export function newHealth(nowMs: number): Health {
  return { state: 'ACTIVE', isLeased: true, leaseMs: nowMs, lastHeardMs: nowMs, stalledMs: 0, sinceMs: nowMs };
}

/** What an event makes of an instance; null: it is to be removed. */
export function nextHealth(health: Health, event: HealthEvent, nowMs: number, limits: HealthLimits): Health | null {
  switch (event.type) {
    case 'registered': {
      // Whoever renews a registration lives; whether this replica hears of it shows within `silentMs`.
      const heard = health.isLeased ? health : { ...health, isLeased: true, leaseMs: nowMs, lastHeardMs: nowMs };
      return settle(heard, nowMs, limits);
    }
    case 'unregistered': {
      const gone = health.isLeased ? { ...health, isLeased: false, leaseMs: nowMs } : health;
      if (event.answered) return settle({ ...gone, lastHeardMs: nowMs }, nowMs, limits);
      // It must be heard of again before it is believed: as if silent for long enough.
      return settle({ ...gone, lastHeardMs: Math.min(health.lastHeardMs, nowMs - limits.silentMs - 1) }, nowMs, limits);
    }
    case 'heartbeat':
      return settle({ ...health, lastHeardMs: nowMs, stalledMs: event.stalledMs }, nowMs, limits);
    case 'tick': {
      const settled = settle(health, nowMs, limits);
      if (settled.state !== 'SUSPECT' || settled.isLeased) return settled;
      return nowMs - Math.max(settled.sinceMs, settled.leaseMs) >= limits.suspectMs ? null : settled;
    }
  }
}

function settle(health: Health, nowMs: number, limits: HealthLimits): Health {
  const isSilent = nowMs - health.lastHeardMs > limits.silentMs;
  const isStalled = health.stalledMs > limits.stalledMs;
  const state = isSilent || isStalled ? 'SUSPECT' : health.isLeased ? 'ACTIVE' : 'LEASE_LOST';
  return state === health.state ? health : { ...health, state, sinceMs: nowMs };
}
