// Owns the table of routing policies by name.
import { cacheAware } from './cache-aware.ts';
import { leastLoad } from './least-load.ts';
import type { RoutingPolicy } from './policy.ts';
import { roundRobin } from './round-robin.ts';
import { sloAware } from './slo-aware.ts';

export const policies = {
  'round-robin': roundRobin,
  'least-load': leastLoad,
  'cache-aware': cacheAware,
  'slo-aware': sloAware,
} as const satisfies Readonly<Record<string, RoutingPolicy>>;

export type PolicyName = keyof typeof policies;
export const policyNames = Object.keys(policies) as [PolicyName, ...PolicyName[]];
