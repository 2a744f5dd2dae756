// Owns the description of a KV page: instances whose descriptions are equal can exchange pages.
import type { CacheGroup } from '../kv/cache-group.ts';

export function describeKvLayout(groups: readonly CacheGroup[], blockTokens: number): string {
  const parts = groups.map(({ name, layers, kind, numKvHeads, keyDim, valueDim, element }) => {
    const window = kind.type === 'window' ? ` window ${kind.numTokens}` : '';
    return `${name}${window}: ${layers.length} layers x ${numKvHeads} heads x ${keyDim}+${valueDim} ${element}`;
  });
  return `${blockTokens} tokens; ${parts.join('; ')}`;
}
