// Owns what the KV write stores, in plain terms: the specification of the emitted kernel.
import type { KvShape } from './abi.ts';
import { toHalf } from './float.ref.ts';
import { MAX_HALF } from './kv-write.ts';

/** The value that the cache keeps of an activation. */
export function cachedValue(value: number, element: KvShape['element']): number {
  if (element === 'f32') return Math.fround(value);
  return toHalf(Math.max(-MAX_HALF, Math.min(MAX_HALF, value)));
}
