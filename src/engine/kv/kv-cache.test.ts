// The KV cache against a model of memory: every page holds what was written, and every sequence must read its own tokens.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type BlockDigest, BlockHasher, rootDigest } from '../../common/block-digest.ts';
import { type CacheGroup, firstReadPosition } from './cache-group.ts';
import { KvCache, type KvSequence } from './kv-cache.ts';
import { segments } from './spaces/segments.ts';

const numRuns = process.env['XLLM_TEST_FULL'] ? 1000 : 150;
const blockTokens = 4;
const maxModelLen = 64;
const pageBytes = 1000;
const rangeBytes = pageBytes * (maxModelLen / blockTokens);
const rangeAddress = 1e9;
const paged: CacheGroup = {
  name: 'paged',
  layers: [0],
  kind: { type: 'paged' },
  numKvHeads: 1,
  keyDim: 16,
  valueDim: 16,
  element: 'f16',
};
const windowed = (numTokens: number): CacheGroup => ({
  ...paged,
  name: `window ${numTokens}`,
  kind: { type: 'window', numTokens },
});

interface ModelSequence {
  readonly kv: KvSequence;
  readonly tokens: number[];
  readonly digests: BlockDigest[];
  /** What releaseBefore was told. */
  base: number;
}

/** Simulated memory: page contents by group, ranges as the plans' mapOps left them. */
class World {
  readonly groups: readonly CacheGroup[];
  readonly cache: KvCache;
  readonly pages: Map<number, string[]>[];
  readonly ranges: Map<string, number>[];
  readonly live: ModelSequence[] = [];
  readonly hasher = new BlockHasher(blockTokens);

  constructor(groups: readonly CacheGroup[], numPages: number, numRangeSlots: number, maxMappings: number) {
    this.groups = groups;
    this.pages = groups.map(() => new Map());
    this.ranges = groups.map(() => new Map());
    this.cache = new KvCache({
      groups,
      numPages: groups.map(() => numPages),
      blockTokens,
      maxModelLen,
      maxStepTokens: 8,
      numRangeSlots,
      maxMappings,
      maxEvents: 32,
    });
  }

  root(salt: string): BlockDigest {
    return rootDigest({ model: 'm', numericsId: 'n', blockTokens, adapter: '', salt });
  }

  allocate(tokens: readonly number[], salt: string, headroom: number): void {
    const digests: BlockDigest[] = [];
    this.hasher.extend(digests, this.root(salt), Int32Array.from(tokens), tokens.length);
    const numCached = this.cache.match(digests, Math.floor((tokens.length - 1) / blockTokens));
    const kv = this.cache.tryAllocate(digests, numCached, tokens.length, headroom);
    if (!kv) return;
    const base = numCached * blockTokens;
    const sequence: ModelSequence = { kv, tokens: tokens.slice(0, base), digests: digests.slice(0, numCached), base };
    this.live.push(sequence);
    this.check();
    this.append(sequence, tokens.slice(base), salt);
  }

  append(sequence: ModelSequence, tokens: readonly number[], salt: string): void {
    for (let i = 0; i < tokens.length; i += 8) {
      const chunk = tokens.slice(i, i + 8);
      const start = sequence.tokens.length;
      if (start + chunk.length > maxModelLen) return;
      if (!this.cache.tryAppend(sequence.kv, start + chunk.length)) return;
      chunk.forEach((token, j) => {
        sequence.tokens.push(token);
        this.#write(sequence, start + j, token);
      });
      // The tables of a step name all its positions, before the step is committed.
      this.step([sequence]);
      const { tokens: all, digests } = sequence;
      this.hasher.extend(digests, this.root(salt), Int32Array.from(all), all.length);
      this.cache.publish(sequence.kv, digests, digests.length);
      this.cache.releaseBefore(sequence.kv, all.length);
      sequence.base = all.length;
    }
  }

  fork(parent: ModelSequence): void {
    const forked = this.cache.fork(parent.kv, parent.tokens.length);
    if (!forked) return;
    forked.copies.forEach((copies, g) => {
      for (let i = 0; i < copies.length; i += 2) {
        this.pages[g]!.set(copies[i + 1]!, [...(this.pages[g]!.get(copies[i]!) ?? [])]);
      }
    });
    this.live.push({ ...parent, kv: forked.sequence, tokens: [...parent.tokens], digests: [...parent.digests] });
  }

  truncate(sequence: ModelSequence, numTokens: number): void {
    const windows = this.groups.some(({ kind }) => kind.type === 'window');
    // A window may not have moved past the cut.
    const lowest = windows ? Math.ceil(sequence.base / blockTokens) * blockTokens : 0;
    if (numTokens < lowest || numTokens > sequence.tokens.length) return;
    const kept = this.cache.truncate(sequence.kv, numTokens);
    expect(kept).toBeGreaterThanOrEqual(Math.floor(numTokens / blockTokens) * blockTokens);
    expect(kept).toBeLessThanOrEqual(numTokens);
    sequence.tokens.length = kept;
    sequence.digests.length = Math.min(sequence.digests.length, Math.floor(kept / blockTokens));
  }

  free(sequence: ModelSequence): void {
    this.cache.free(sequence.kv);
    this.live.splice(this.live.indexOf(sequence), 1);
  }

  /** Builds tables for the rows and reads them back as a kernel would: through segments and ranges. */
  step(rows: readonly ModelSequence[]): void {
    const ends = Int32Array.from(rows, ({ tokens }) => tokens.length);
    const tables = this.cache.buildTables(
      rows.map(({ kv }) => kv),
      ends,
    );
    tables.forEach((table, g) => {
      const { mapOps } = table;
      for (let i = 0; i < mapOps.length; i += 3) {
        this.ranges[g]!.set(`${mapOps[i]!}:${mapOps[i + 1]!}`, mapOps[i + 2]!);
      }
      const memory = { poolAddress: 0, foreignAddresses: [], rangeAddress, rangeBytes, pageBytes, blockTokens };
      rows.forEach(({ tokens, base }, row) => {
        const from = firstReadPosition(this.groups[g]!.kind, base);
        let next = Math.floor(from / blockTokens) * blockTokens;
        for (const segment of segments(memory, table, row, tokens.length, from)) {
          expect(segment.firstPosition).toBe(next);
          for (let i = 0; i < segment.numTokens; i++) {
            const address = segment.address + Math.floor(i / blockTokens) * pageBytes;
            const page = this.#pageAt(g, address);
            const position = segment.firstPosition + i;
            expect(this.pages[g]!.get(page)?.[i % blockTokens]).toBe(`${position}:${tokens[position]}`);
          }
          next = segment.firstPosition + segment.numTokens;
        }
        expect(next).toBe(tokens.length);
      });
    });
  }

  check(): void {
    this.cache.checkIntegrity();
    for (const { kv, tokens, base } of this.live) {
      kv.lists.forEach((list, g) => {
        for (let position = firstReadPosition(this.groups[g]!.kind, base); position < tokens.length; position++) {
          const page = list.pages[Math.floor(position / blockTokens)]!;
          expect(this.pages[g]!.get(page)?.[position % blockTokens]).toBe(`${position}:${tokens[position]}`);
        }
      });
    }
  }

  #write(sequence: ModelSequence, position: number, token: number): void {
    sequence.kv.lists.forEach((list, g) => {
      const page = list.pages[Math.floor(position / blockTokens)]!;
      const content = this.pages[g]!.get(page) ?? [];
      content[position % blockTokens] = `${position}:${token}`;
      this.pages[g]!.set(page, content);
    });
  }

  #pageAt(g: number, address: number): number {
    if (address < rangeAddress) return address / pageBytes;
    const slot = Math.floor((address - rangeAddress) / rangeBytes);
    const block = (address - rangeAddress - slot * rangeBytes) / pageBytes;
    const page = this.ranges[g]!.get(`${slot}:${block}`);
    expect(page).toBeDefined();
    return page!;
  }
}

// Few tokens and few beginnings, so that prefixes are shared often.
const tokenRun = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 30 });
const operation = fc.oneof(
  fc.record({
    op: fc.constant('allocate' as const),
    shared: fc.integer({ min: 0, max: 24 }),
    tokens: tokenRun,
    salt: fc.constantFrom('', '', 'tenant'),
    headroom: fc.integer({ min: 0, max: 3 }),
  }),
  fc.record({ op: fc.constant('append' as const), which: fc.nat(), tokens: tokenRun }),
  fc.record({ op: fc.constant('fork' as const), which: fc.nat() }),
  fc.record({ op: fc.constant('truncate' as const), which: fc.nat(), by: fc.integer({ min: 0, max: 12 }) }),
  fc.record({ op: fc.constant('free' as const), which: fc.nat() }),
  fc.record({ op: fc.constant('step' as const) }),
);

const setups: readonly [string, readonly CacheGroup[]][] = [
  ['one paged group', [paged]],
  ['paged and sliding groups', [paged, windowed(6), windowed(13)]],
  ['only a sliding group', [windowed(5)]],
];

test.each(setups)('random operations keep every sequence readable: %s', (_, groups) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 6, max: 40 }),
      fc.constantFrom(0, 2, 8),
      fc.constantFrom(12, 1000),
      fc.array(operation, { maxLength: 60 }),
      (numPages, numRangeSlots, maxMappings, operations) => {
        const world = new World(groups, numPages, numRangeSlots, maxMappings);
        const beginning = Array.from({ length: 24 }, (_, i) => 10 + i);
        const salts = new Map<ModelSequence, string>();
        for (const step of operations) {
          const at = 'which' in step && world.live.length > 0 ? world.live[step.which % world.live.length] : undefined;
          if (step.op === 'allocate') {
            world.allocate([...beginning.slice(0, step.shared), ...step.tokens], step.salt, step.headroom);
            const added = world.live.at(-1);
            if (added && !salts.has(added)) salts.set(added, step.salt);
          } else if (step.op === 'step') world.step(world.live);
          else if (!at) continue;
          else if (step.op === 'append') world.append(at, step.tokens, salts.get(at) ?? '');
          else if (step.op === 'fork') {
            const before = world.live.length;
            world.fork(at);
            if (world.live.length > before) salts.set(world.live.at(-1)!, salts.get(at) ?? '');
          } else if (step.op === 'truncate') world.truncate(at, at.tokens.length - step.by);
          else world.free(at);
          world.check();
          const { numMappings } = world.cache.stats();
          if (numRangeSlots > 0) expect(numMappings).toBeLessThanOrEqual(maxMappings);
        }
        while (world.live.length > 0) world.free(world.live[0]!);
        world.check();
        for (const stats of world.cache.stats().groups) {
          expect(stats.numFree + stats.numReusable).toBe(stats.numPages);
        }
      },
    ),
    { numRuns },
  );
});

test('a listener that follows the events knows the cache', () => {
  const world = new World([paged], 8, 0, 0);
  const known = new Set<BlockDigest>();
  let number = 0;
  let numSnapshots = 0;
  const follow = (): void => {
    const batch = world.cache.eventsSince(number);
    if (batch.isSnapshot) {
      known.clear();
      numSnapshots++;
    }
    for (const digest of batch.stored) known.add(digest);
    for (const digest of batch.evicted) known.delete(digest);
    number = batch.number;
    expect([...known].sort()).toEqual([...world.cache.eventsSince(0).stored].sort());
  };
  for (let round = 0; round < 60; round++) {
    world.allocate(
      Array.from({ length: 9 + (round % 12) }, (_, i) => (i < 6 ? i : round)),
      '',
      0,
    );
    while (world.live.length > 0) world.free(world.live[0]!);
    // From round 30 to 50 the listener sleeps, past the log's 32 events.
    if (round % 3 === 0 && (round < 30 || round > 50)) follow();
  }
  expect(numSnapshots).toBe(2);
});

test('tenants share nothing, equal salts share', () => {
  const world = new World([paged], 40, 0, 0);
  const tokens = Array.from({ length: 20 }, (_, i) => i);
  world.allocate(tokens, 'a', 0);
  const digestsOf = (salt: string): BlockDigest[] => {
    const digests: BlockDigest[] = [];
    world.hasher.extend(digests, world.root(salt), Int32Array.from(tokens), tokens.length);
    return digests;
  };
  expect(world.cache.match(digestsOf('a'), 99)).toBe(5);
  expect(world.cache.match(digestsOf('b'), 99)).toBe(0);
  expect(world.cache.match(digestsOf('a'), 4)).toBe(4);
});

test('what was used longest ago goes first, tails before heads', () => {
  const world = new World([paged], 10, 0, 0);
  const prompts = [100, 200].map((base) => Array.from({ length: 16 }, (_, i) => base + i));
  for (const prompt of prompts) {
    world.allocate(prompt, '', 0);
    world.free(world.live[0]!);
  }
  const numCached = (): number[] =>
    prompts.map((prompt) => {
      const digests: BlockDigest[] = [];
      world.hasher.extend(digests, world.root(''), Int32Array.from(prompt), prompt.length);
      return world.cache.match(digests, 99);
    });
  expect(numCached()).toEqual([4, 4]);
  // Five pages: two were never used, three must be taken from the cache.
  world.allocate([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17], '', 0);
  expect(numCached()).toEqual([1, 4]);
});

test('a finished sequence leaves its range to one that wants the same pages, unmapped by nobody', () => {
  const world = new World([paged], 40, 4, 1000);
  const tokens = Array.from({ length: 20 }, (_, i) => i);
  world.allocate(tokens, '', 0);
  world.step(world.live);
  world.free(world.live[0]!);
  world.allocate([...tokens.slice(0, 16), 99, 98], '', 0);
  const tables = world.cache.buildTables([world.live[0]!.kv], Int32Array.of(18));
  // Four cached blocks are in the range already; the fifth page was never published, so it is free and in place.
  expect([...tables[0]!.mapOps]).toEqual([]);
  expect(tables[0]!.rangeSlot[0]).toBe(0);
});
