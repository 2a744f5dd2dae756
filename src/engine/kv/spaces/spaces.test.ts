// KV spaces on real memory: what is written through ranges, pools and copies is read back through any of them.
import { afterEach, describe, expect, test } from 'vitest';
import { XllmError } from '../../../common/errors.ts';
import { viewMemory } from '../../ffi/koffi.ts';
import type { CacheGroup } from '../cache-group.ts';
import { KvCache } from '../kv-cache.ts';
import { pageLayout } from '../layout.ts';
import type { GroupTables } from '../tables.ts';
import { type CreatedSpace, createKvSpace, type KvSpaceOptions } from './create-space.ts';
import { HeapPool } from './heap-pool.ts';
import type { KvSpace } from './kv-space.ts';
import { MemfdPool } from './memfd-pool.ts';
import { PooledSpace } from './pooled-space.ts';
import { segments } from './segments.ts';

const blockTokens = 16;
const group = (name: string, numLayers: number, window = 0): CacheGroup => ({
  name,
  layers: Array.from({ length: numLayers }, (_, i) => i),
  kind: window > 0 ? { type: 'window', numTokens: window } : { type: 'paged' },
  numKvHeads: 1,
  keyDim: 16,
  valueDim: 16,
  element: 'f16',
});
// One page is 4 KiB in the first group and 12 KiB in the second.
const groups = [group('full', 4), group('sliding', 12, 40)];
const options: KvSpaceOptions = {
  groups,
  numPages: [64, 64],
  blockTokens,
  maxModelLen: 256,
  maxNumSeqs: 4,
  maxBatchedTokens: 64,
  layout: 'auto',
  gainsFromRanges: true,
  onShortage: () => expect.fail('short of memory'),
};

const opened: KvSpace[] = [];
afterEach(() => {
  for (const space of opened.splice(0)) space.close();
});

async function open(more: Partial<KvSpaceOptions> = {}): Promise<CreatedSpace & { kv: KvCache }> {
  const created = await createKvSpace({ ...options, ...more });
  opened.push(created.space);
  const { numRangeSlots, maxMappings } = created;
  return { ...created, kv: new KvCache({ ...options, maxStepTokens: 64, numRangeSlots, maxMappings }) };
}

/** First and last token of each block of a row, one 32-bit word each, at the start and end of its page. */
function words(space: KvSpace, tables: readonly GroupTables[], g: number, row: number, to: number): Int32Array[] {
  const memory = space.groups[g]!;
  return segments(memory, tables[g]!, row, to).flatMap(({ address, numTokens }) =>
    Array.from(
      { length: Math.ceil(numTokens / blockTokens) },
      (_, i) => new Int32Array(viewMemory(address + i * memory.pageBytes, memory.pageBytes)),
    ),
  );
}

describe.each(['xtensor', 'blocks'] as const)('%s', (layout) => {
  test('sequences keep what they wrote while others come and go', async () => {
    const { space, kv } = await open({ layout });
    expect(space.layout).toBe(layout);
    const live = new Map<number, NonNullable<ReturnType<KvCache['tryAllocate']>>>();
    for (let round = 0; round < 40; round++) {
      const id = round % 5;
      const old = live.get(id);
      if (old) kv.free(old);
      live.delete(id);
      const numTokens = 1 + ((round * 37) % 190);
      const sequence = kv.tryAllocate([], 0, numTokens, 0);
      if (!sequence || !kv.tryAppend(sequence, numTokens)) {
        if (sequence) kv.free(sequence);
        continue;
      }
      live.set(id, sequence);
      const rows = [...live.values()];
      const ends = Int32Array.from(rows, (row) =>
        row === sequence ? numTokens : row.lists[0]!.numBlocks * blockTokens,
      );
      const tables = kv.buildTables(rows, ends);
      await space.prepare(tables);
      kv.checkIntegrity();
      for (let g = 0; g < groups.length; g++) {
        rows.forEach((row, r) => {
          const mark = [...live].find(([, held]) => held === row)![0];
          words(space, tables, g, r, ends[r]!).forEach((page, block) => {
            const value = 1000 * mark + block;
            if (row === sequence) page[0] = page[page.length - 1] = value;
            expect([page[0], page.at(-1)]).toEqual([value, value]);
          });
        });
      }
    }
    expect(live.size).toBeGreaterThan(2);
  });

  test('a range is one segment, a block list as few as neighbours allow', async () => {
    const { space, kv } = await open({ layout });
    const first = kv.tryAllocate([], 0, 100, 0)!;
    kv.tryAppend(first, 100);
    const second = kv.tryAllocate([], 0, 20, 0)!;
    kv.tryAppend(second, 20);
    kv.tryAppend(first, 120);
    const tables = kv.buildTables([first, second], Int32Array.of(120, 20));
    await space.prepare(tables);
    const list = segments(space.groups[0]!, tables[0]!, 0, 120);
    expect(list.map(({ firstPosition, numTokens }) => [firstPosition, numTokens])).toEqual(
      layout === 'xtensor'
        ? [[0, 120]]
        : [
            [0, 112],
            [112, 8],
          ],
    );
    expect(segments(space.groups[0]!, tables[0]!, 0, 120, 50)[0]!.firstPosition).toBe(48);
    kv.releaseBefore(first, 110);
    const [, sliding] = kv.buildTables([first], Int32Array.of(120));
    // A window of 40 before position 110 begins at 71, in the block of 64.
    expect(segments(space.groups[1]!, sliding!, 0, 120)[0]!.firstPosition).toBe(64);
  });

  test('a fork copies its partial block', async () => {
    const { space, kv } = await open({ layout });
    const parent = kv.tryAllocate([], 0, 40, 0)!;
    kv.tryAppend(parent, 40);
    let tables = kv.buildTables([parent], Int32Array.of(40));
    await space.prepare(tables);
    for (let g = 0; g < 2; g++) words(space, tables, g, 0, 40).forEach((page, block) => page.fill(block + 1));
    const { sequence: child, copies } = kv.fork(parent, 40)!;
    tables = kv.buildTables([parent, child], Int32Array.of(40, 40));
    await space.prepare(tables);
    space.copy(copies);
    for (let g = 0; g < 2; g++) {
      const childPages = words(space, tables, g, 1, 40);
      expect(childPages.map((page) => page[9])).toEqual([1, 2, 3]);
      childPages[2]![9] = -1;
      expect(words(space, tables, g, 0, 40)[2]![9]).toBe(3);
    }
  });
});

test('auto takes ranges and says what bounds them; heaps serve where there are no memory files', async () => {
  const { space, numRangeSlots, maxMappings } = await open();
  expect(space.layout).toBe('xtensor');
  expect(space.reason).toBe(`block lists beyond ${maxMappings} mappings`);
  expect(numRangeSlots).toBe(4);
  const heap = new HeapPool(8, 4096);
  const plain = new PooledSpace([space.layouts[0]!], [heap], [], 'test', options.onShortage);
  opened.push(plain);
  expect(heap.address % 4096).toBe(0);
  const page = new Int32Array(viewMemory(heap.address + 7 * 4096, 4096));
  expect(page.every((word) => word === 0)).toBe(true);
  page.fill(5);
  plain.copy([Int32Array.of(7, 3)]);
  expect(new Int32Array(viewMemory(heap.address + 3 * 4096, 4096))[1023]).toBe(5);
});

test('auto gives kernels that gain nothing from ranges lists of blocks', async () => {
  const { space, numRangeSlots } = await open({ gainsFromRanges: false });
  expect([space.layout, numRangeSlots]).toEqual(['blocks', 0]);
  expect((await open({ gainsFromRanges: false, layout: 'xtensor' })).space.layout).toBe('xtensor');
});

test('address space that cannot be had: auto goes without ranges, xtensor says so', async () => {
  const huge = { maxModelLen: 2 ** 40, maxNumSeqs: 2 ** 10 };
  const { space, numRangeSlots } = await open(huge);
  expect([space.layout, numRangeSlots]).toEqual(['blocks', 0]);
  expect(space.reason).toMatch(/ENOMEM/);
  await expect(open({ ...huge, layout: 'xtensor' })).rejects.toThrow(/--kv-layout auto/);
});

test('a pool grows ahead of need, stops at what the system spares, and fails cleanly beyond', async () => {
  const pageBytes = 16 << 20;
  let spareBytes = 100 << 20;
  let numAsked = 0;
  const pool = new MemfdPool(32, pageBytes, {
    numAheadPages: 1,
    spareBytes: () => {
      numAsked++;
      return spareBytes;
    },
  });
  // Four pages are one chunk: three and one ahead.
  await pool.ensure(3);
  expect([numAsked, pool.maxPages]).toEqual([1, 32]);
  const last = new Uint8Array(viewMemory(pool.address + 3 * pageBytes, pageBytes));
  expect(last.every((byte) => byte === 0)).toBe(true);
  spareBytes = 0;
  await pool.ensure(4);
  await expect.poll(() => pool.maxPages).toBe(4);
  await expect(pool.ensure(5)).rejects.toThrow(XllmError);
  await pool.ensure(4);
  pool.close();
});

test('a shortage is told once, by the step that meets it', async () => {
  const told: [number, number][] = [];
  const layout = pageLayout(group('large', 8192), blockTokens);
  const pool = new MemfdPool(32, layout.pageBytes, { numAheadPages: 99, spareBytes: () => 0 });
  // It may have come to light before the first step.
  await expect(pool.ensure(1)).rejects.toThrow(XllmError);
  const space = new PooledSpace([layout], [pool], [], 'test', (g, numPages) => told.push([g, numPages]));
  opened.push(space);
  const none = new Int32Array(0);
  const tables = { pageStart: none, pages: none, rangeSlot: none, mapOps: none };
  await space.prepare([{ ...tables, numPagesTouched: 0 }]);
  await space.prepare([{ ...tables, numPagesTouched: 0 }]);
  expect(told).toEqual([[0, 0]]);
  await expect(space.prepare([{ ...tables, numPagesTouched: 1 }])).rejects.toMatchObject({ code: 'out_of_memory' });
});

test('a pool closed while it grows ends in order', async () => {
  const growth = { numAheadPages: 1000, spareBytes: () => 2 ** 40 };
  const pool = new MemfdPool(8, 16 << 20, growth);
  await pool.ensure(1);
  pool.close();
});
