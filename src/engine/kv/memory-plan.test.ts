// The memory plan: what limits the pool, what is lowered, and that one longest sequence always fits.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { CacheGroup } from './cache-group.ts';
import { KvCache } from './kv-cache.ts';
import { pageLayout } from './layout.ts';
import { planMemory } from './memory-plan.ts';

const GiB = 2 ** 30;
/** The default model: 30 layers, 3 KV heads of 64. */
const smol: CacheGroup = {
  name: 'all',
  layers: Array.from({ length: 30 }, (_, i) => i),
  kind: { type: 'paged' },
  numKvHeads: 3,
  keyDim: 64,
  valueDim: 64,
  element: 'f16',
};
const input = {
  groups: [smol],
  blockTokens: 16,
  maxModelLen: 2048,
  maxNumSeqs: 64,
  maxStepTokens: 512,
  availableBytes: 8 * GiB,
  wantedBytes: 0,
};

test('a page of the default model is 360 KiB', () => {
  const layout = pageLayout(smol, 16);
  expect(layout).toMatchObject({ pageBytes: 360 * 1024, keyHeadBytes: 2048, valueOffset: 6144, layerBytes: 12_288 });
});

test('keys and values may differ in width, values may be absent, pages are whole memory pages', () => {
  const latent = pageLayout({ ...smol, layers: [0], numKvHeads: 1, keyDim: 576, valueDim: 0, element: 'f32' }, 16);
  expect(latent).toMatchObject({ keyTokenBytes: 2304, valueTokenBytes: 0, layerBytes: 36_864, pageBytes: 36_864 });
  expect(pageLayout({ ...smol, layers: [0], numKvHeads: 1, keyDim: 16, valueDim: 16 }, 16).pageBytes).toBe(4096);
});

test('demand limits, else a quarter of memory, else the flag', () => {
  expect(planMemory(input)).toMatchObject({ limitedBy: 'memory', maxModelLen: 2048 });
  expect(planMemory(input).kvBytes).toBeLessThanOrEqual(2 * GiB);
  expect(planMemory({ ...input, maxNumSeqs: 8 })).toMatchObject({ limitedBy: 'demand', numPages: [1024] });
  expect(planMemory({ ...input, wantedBytes: GiB })).toMatchObject({ limitedBy: 'flag' });
  expect(planMemory(input).summary).toMatchInlineSnapshot(`
    [
      "KV cache 2.00 GiB (25 % of 8.00 GiB available): 5825 blocks, 16 tokens each; 45 sequences of full length",
    ]
  `);
});

test('a context that cannot fit is lowered, aloud', () => {
  const plan = planMemory({ ...input, maxModelLen: 131_072, availableBytes: GiB });
  expect(plan.maxModelLen).toBe(728 * 16);
  expect(plan.summary).toMatchInlineSnapshot(`
    [
      "KV cache 256 MiB (25 % of 1.00 GiB available): 728 blocks, 16 tokens each; 1 sequences of full length",
      "context lowered from 131072 to 11648 tokens: one longer sequence does not fit into the KV cache",
    ]
  `);
});

test('no memory at all is an error that says what to do', () => {
  expect(() => planMemory({ ...input, availableBytes: 1 << 20 })).toThrow(/--kv-cache-memory/);
});

test('whatever the groups, the pools stay within budget and hold one longest sequence', () => {
  const group = fc
    .record({ numLayers: fc.integer({ min: 1, max: 40 }), window: fc.constantFrom(0, 0, 64, 512, 4096) })
    .map(
      ({ numLayers, window }): CacheGroup => ({
        ...smol,
        layers: Array.from({ length: numLayers }, (_, i) => i),
        kind: window > 0 ? { type: 'window', numTokens: window } : { type: 'paged' },
      }),
    );
  fc.assert(
    fc.property(
      fc.array(group, { minLength: 1, maxLength: 3 }),
      fc.integer({ min: 1, max: 40_000 }),
      fc.integer({ min: 1, max: 300 }),
      fc.integer({ min: 64 << 20, max: 2 ** 31 - 1 }),
      (groups, maxModelLen, maxNumSeqs, wantedBytes) => {
        const plan = planMemory({ ...input, groups, maxModelLen, maxNumSeqs, wantedBytes });
        expect(plan.kvBytes).toBeLessThanOrEqual(wantedBytes);
        expect(plan.maxModelLen).toBeLessThanOrEqual(maxModelLen);
        expect(plan.maxModelLen).toBeGreaterThan(0);
        expect(plan.numFullSequences).toBeGreaterThanOrEqual(1);
        const kv = new KvCache({
          groups,
          numPages: plan.numPages,
          blockTokens: 16,
          maxModelLen: plan.maxModelLen,
          maxStepTokens: 512,
          numRangeSlots: 0,
          maxMappings: 0,
        });
        expect(kv.fitsAlone(plan.maxModelLen)).toBe(true);
      },
    ),
    { numRuns: 100 },
  );
});
