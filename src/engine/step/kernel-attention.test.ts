// Pages have exactly the room that the emitted kernels use, in every cache type.
import { expect, test } from 'vitest';
import { headBytes } from '../jit/kernels/abi.ts';
import type { CacheGroup } from '../kv/cache-group.ts';
import { pageLayout } from '../kv/layout.ts';

const group: CacheGroup = {
  name: 'all',
  layers: [0, 1, 2],
  kind: { type: 'paged' },
  numKvHeads: 3,
  keyDim: 80,
  valueDim: 80,
  element: 'f16',
};

test.each(['f16', 'bf16', 'f32', 'int8'] as const)('%s', (element) => {
  for (const blockTokens of [16, 64]) {
    const layout = pageLayout({ ...group, element }, blockTokens);
    const shape = { numHeads: 6, numKvHeads: 3, headDim: 80, blockTokens, element, hasSoftCap: false };
    expect(layout.keyHeadBytes).toBe(headBytes(shape));
    expect(layout.valueHeadBytes).toBe(headBytes(shape));
    expect(layout.layerBytes).toBe(2 * 3 * headBytes(shape));
  }
});
