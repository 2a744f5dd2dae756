// Two caches that hand sequences over, mapped or sent: no page is lost, none is written while another reads it.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type BlockDigest, BlockHasher, rootDigest } from '../../common/block-digest.ts';
import type { CacheGroup, CacheKind } from './cache-group.ts';
import { KvCache, type KvSequence } from './kv-cache.ts';
import type { BlockRun } from './kv-exchange.ts';
import { indexOf, isForeign, pageRef } from './page-ref.ts';

const blockTokens = 4;
const numPages = 24;
const root = rootDigest({ model: 'm', numericsId: 'n', blockTokens, adapter: '', salt: '' });
const hasher = new BlockHasher(blockTokens);

function group(kind: CacheKind): CacheGroup {
  return { name: kind.type, layers: [0], kind, numKvHeads: 1, keyDim: 16, valueDim: 16, element: 'f16' };
}

function cache(kinds: readonly CacheKind[]): KvCache {
  return new KvCache({
    groups: kinds.map(group),
    numPages: kinds.map(() => numPages),
    blockTokens,
    maxModelLen: 64,
    maxStepTokens: 16,
    numRangeSlots: 2,
    maxMappings: 100,
  });
}

interface Held {
  readonly kv: KvSequence;
  readonly tokens: Int32Array;
  readonly digests: BlockDigest[];
  numTokens: number;
}

class World {
  readonly source: KvCache;
  readonly target: KvCache;
  readonly numGroups: number;
  readonly here: Held[] = [];
  readonly there: Held[] = [];
  /** Pages of the source that the target has, as often as it has them. */
  readonly out: { group: number; page: number }[] = [];

  constructor(kinds: readonly CacheKind[]) {
    this.source = cache(kinds);
    this.target = cache(kinds);
    this.numGroups = kinds.length;
  }

  begin(family: number, numTokens: number): void {
    const tokens = Int32Array.from({ length: 64 }, (_, i) => (i < 8 ? family : family * 100 + numTokens));
    const digests: BlockDigest[] = [];
    hasher.extend(digests, root, tokens, numTokens);
    const numCached = this.source.match(digests, Math.floor((numTokens - 1) / blockTokens));
    const kv = this.source.tryAllocate(digests, numCached, numTokens, 0);
    if (!kv) return;
    if (!this.source.tryAppend(kv, numTokens)) {
      this.source.free(kv);
      return;
    }
    this.source.publish(kv, digests, Math.floor(numTokens / blockTokens));
    this.source.releaseBefore(kv, numTokens);
    this.here.push({ kv, tokens, digests, numTokens });
  }

  handOver(index: number, attaches: boolean): void {
    const [held] = this.here.splice(index % Math.max(1, this.here.length), 1);
    if (!held) return;
    const { exchange } = this.source;
    const numHeld = this.target.match(held.digests, held.digests.length);
    const reserved = this.target.exchange.tryReserve(held.digests, numHeld, held.numTokens, {
      numHeadroom: 0,
      attaches,
    });
    if (reserved && attaches) {
      const runs = exchange.blocks(held.kv, numHeld, held.numTokens);
      exchange.lend(runs);
      runs.forEach((run, g) => this.#attach(reserved, g, run));
    }
    this.source.free(held.kv);
    if (reserved) this.there.push({ ...held, kv: reserved });
  }

  #attach(kv: KvSequence, g: number, { firstBlock, pages }: BlockRun): void {
    for (const page of pages) {
      expect(page, 'a page that was given back is handed over').toBeGreaterThanOrEqual(0);
      this.out.push({ group: g, page });
    }
    this.target.exchange.attach(kv, g, { firstBlock, pages: pages.map((page) => pageRef(1, page)) });
  }

  /** The target's next token. */
  decode(index: number): void {
    const held = this.there[index % Math.max(1, this.there.length)];
    if (!held || held.numTokens >= 60 || !this.target.tryAppend(held.kv, held.numTokens + 1)) return;
    held.numTokens++;
    hasher.extend(held.digests, root, held.tokens, held.numTokens);
    this.target.publish(held.kv, held.digests, Math.floor(held.numTokens / blockTokens));
    this.target.releaseBefore(held.kv, held.numTokens);
  }

  copy(index: number, isGood: boolean): void {
    const held = this.there[index % Math.max(1, this.there.length)];
    if (!held) return;
    const numFull = Math.floor(held.numTokens / blockTokens);
    const copies = this.target.exchange.startCopies(held.kv, held.digests, numFull, { max: 2, numHeadroom: 1 });
    this.check();
    for (const copy of copies) this.target.exchange.endCopy(copy, isGood);
  }

  end(index: number): void {
    const [held] = this.there.splice(index % Math.max(1, this.there.length), 1);
    if (held) this.target.free(held.kv);
  }

  /** Fetched, and given back later: a step may still read them. */
  readonly fetched: number[][][] = [];

  fetch(): void {
    this.fetched.push(this.target.exchange.takeDropped());
  }

  giveBack(): void {
    this.fetch();
    for (const pages of this.fetched.splice(0)) this.#giveBack(pages);
  }

  #giveBack(pagesOf: readonly number[][]): void {
    pagesOf.forEach((pages, g) => {
      for (const page of pages) {
        expect(isForeign(page)).toBe(true);
        const at = this.out.findIndex((one) => one.group === g && one.page === indexOf(page));
        expect(at, 'a page comes back that was not out').toBeGreaterThanOrEqual(0);
        this.out.splice(at, 1);
        expect(this.source.exchange.takeBack(g, indexOf(page))).toBe(true);
      }
    });
  }

  check(): void {
    this.source.checkIntegrity();
    this.target.checkIntegrity();
    expect(this.source.exchange.numLent).toBe(this.out.length);
  }
}

const operation = fc.oneof(
  fc.record({
    type: fc.constant('begin' as const),
    a: fc.integer({ min: 1, max: 3 }),
    b: fc.integer({ min: 1, max: 40 }),
  }),
  fc.record({
    type: fc.constantFrom(
      'map' as const,
      'send' as const,
      'decode' as const,
      'copy' as const,
      'spoil' as const,
      'end' as const,
      'fetch' as const,
      'return' as const,
    ),
    a: fc.nat(20),
    b: fc.constant(0),
  }),
);

test.each([
  ['one paged group', [{ type: 'paged' }]],
  ['a paged group and a window', [{ type: 'paged' }, { type: 'window', numTokens: 6 }]],
] as const)('%s', (_, kinds) => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
      const world = new World(kinds);
      for (const { type, a, b } of operations) {
        if (type === 'begin') world.begin(a, b);
        else if (type === 'map') world.handOver(a, true);
        else if (type === 'send') world.handOver(a, false);
        else if (type === 'decode') world.decode(a);
        else if (type === 'copy') world.copy(a, true);
        else if (type === 'spoil') world.copy(a, false);
        else if (type === 'fetch') world.fetch();
        else if (type === 'end') world.end(a);
        else world.giveBack();
        world.check();
      }
      while (world.here.length > 0) world.source.free(world.here.pop()!.kv);
      while (world.there.length > 0) world.end(0);
      world.giveBack();
      world.check();
      for (const side of [world.source, world.target])
        for (const { numAllocated, numMapped } of side.stats().groups) expect(numAllocated + numMapped).toBe(0);
    }),
    { numRuns: 200 },
  );
});
