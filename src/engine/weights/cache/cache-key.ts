// Owns the names of cached weights: what a cache file is made from decides its name, so that a wrong one is never found.
import { createHash } from 'node:crypto';
import type { WeightRequest } from '../weight-plan.ts';

/** Counts up when the layout of cache files or of the weights in them changes. */
const CACHE_VERSION = 1;

/** `digests`: of the model's files, in their order. */
export function cacheKey(digests: readonly string[], requests: readonly WeightRequest[]): string {
  const plan = requests.map(({ sources, target, add, packing }) => [
    sources.map(({ dtype, shape, fileIndex, byteOffset }) => [dtype, shape, fileIndex, byteOffset]),
    target,
    add,
    packing && [packing.spec.format, packing.spec.isGated, packing.spec.version],
  ]);
  const hash = createHash('sha256').update(JSON.stringify([CACHE_VERSION, digests, plan]));
  return hash.digest('hex').slice(0, 40);
}
