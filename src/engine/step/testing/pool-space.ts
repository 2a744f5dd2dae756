// Owns the plainest KV space for tests: one fixed allocation, pages by number.
import { allocateNative } from '../../ffi/memory.ts';
import type { CacheGroup } from '../../kv/cache-group.ts';
import { pageLayout } from '../../kv/layout.ts';
import type { KvSpace } from '../../kv/spaces/kv-space.ts';

export function createPoolSpace(groups: readonly CacheGroup[], numPages: number, blockTokens = 16): KvSpace {
  const layouts = groups.map((group) => pageLayout(group, blockTokens));
  const memories = layouts.map(({ pageBytes }) => allocateNative(pageBytes * numPages));
  return {
    layout: 'blocks',
    reason: 'test',
    layouts,
    groups: layouts.map(({ pageBytes }, g) => ({
      poolAddress: memories[g]!.address,
      foreignAddresses: [],
      rangeAddress: 0,
      rangeBytes: 0,
      pageBytes,
      blockTokens,
    })),
    prepare: () => Promise.resolve(),
    copy: () => {},
    close: () => {
      for (const memory of memories) memory.free();
    },
  };
}
