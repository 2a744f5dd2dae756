// Owns the KV space over one pool per group, with or without ranges into it.
import { type Address, viewMemory } from '../../ffi/koffi.ts';
import { copyMemoryAsync } from '../../ffi/libc.ts';
import type { PageLayout } from '../layout.ts';
import { indexOf, poolOf } from '../page-ref.ts';
import type { GroupTables } from '../tables.ts';
import { ForeignPools } from './foreign-pools.ts';
import type { KvLayout, KvSpace, PageCopies } from './kv-space.ts';
import type { PageStore, PoolFile } from './page-store.ts';
import type { PoolMemory } from './pool-memory.ts';
import type { RangeMaps } from './range-maps.ts';
import type { GroupMemory } from './segments.ts';

export class PooledSpace implements KvSpace, PageStore {
  readonly pageBytes: readonly number[];
  readonly files: readonly PoolFile[] | null;
  readonly layout: KvLayout;
  readonly reason: string;
  readonly groups: readonly GroupMemory[];
  readonly layouts: readonly PageLayout[];
  readonly #pools: readonly PoolMemory[];
  readonly #ranges: readonly RangeMaps[];
  readonly #foreign: ForeignPools;
  readonly #onShortage: (group: number, numPages: number) => void;
  /** [G] what `onShortage` was last told. */
  readonly #maxPages: number[];

  /** [G] each; no `ranges`: every sequence is a list of blocks. */
  constructor(
    layouts: readonly PageLayout[],
    pools: readonly PoolMemory[],
    ranges: readonly RangeMaps[],
    reason: string,
    onShortage: (group: number, numPages: number) => void,
  ) {
    this.#onShortage = onShortage;
    this.#maxPages = pools.map(({ numPages }) => numPages);
    this.layout = ranges.length > 0 ? 'xtensor' : 'blocks';
    this.reason = reason;
    this.layouts = layouts;
    this.#pools = pools;
    this.#ranges = ranges;
    this.#foreign = new ForeignPools(pools.length);
    this.pageBytes = layouts.map(({ pageBytes }) => pageBytes);
    const files = pools.map(({ file }) => file);
    this.files = files.every((file) => file !== null) ? files : null;
    this.groups = pools.map(({ address }, g) => ({
      poolAddress: address,
      foreignAddresses: this.#foreign.addresses[g]!,
      rangeAddress: ranges[g]?.address ?? 0,
      rangeBytes: ranges[g]?.rangeBytes ?? 0,
      pageBytes: layouts[g]!.pageBytes,
      blockTokens: layouts[g]!.blockTokens,
    }));
  }

  async prepare(tables: readonly GroupTables[]): Promise<void> {
    // Memory first: a mapping is filled with the pages that the pool has by then.
    await Promise.all(this.#pools.map((pool, g) => pool.ensure(tables[g]!.numPagesTouched)));
    this.#pools.forEach(({ maxPages }, g) => {
      if (maxPages < this.#maxPages[g]!) this.#onShortage(g, maxPages);
      this.#maxPages[g] = maxPages;
    });
    await Promise.all(this.#ranges.map((ranges, g) => ranges.map(tables[g]!.mapOps)));
  }

  copy(copies: readonly PageCopies[]): void {
    copies.forEach((pairs, g) => {
      const { poolAddress, pageBytes } = this.groups[g]!;
      for (let i = 0; i < pairs.length; i += 2) {
        const from = new Uint8Array(viewMemory(poolAddress + pairs[i]! * pageBytes, pageBytes));
        new Uint8Array(viewMemory(poolAddress + pairs[i + 1]! * pageBytes, pageBytes)).set(from);
      }
    });
  }

  async ensure(numPages: readonly number[]): Promise<void> {
    await Promise.all(this.#pools.map((pool, g) => pool.ensure(numPages[g]!)));
  }

  attach(pool: number, files: readonly PoolFile[]): void {
    this.#foreign.attach(pool, files);
  }

  detach(pool: number): void {
    this.#foreign.detach(pool);
  }

  view(group: number, page: number): Uint8Array {
    return new Uint8Array(viewMemory(this.#addressOf(group, page), this.pageBytes[group]!));
  }

  copyPage(group: number, from: number, to: number): Promise<void> {
    return copyMemoryAsync(this.#addressOf(group, to), this.#addressOf(group, from), this.pageBytes[group]!);
  }

  #addressOf(group: number, page: number): Address {
    const { poolAddress, foreignAddresses, pageBytes } = this.groups[group]!;
    const pool = poolOf(page);
    return (pool === 0 ? poolAddress : foreignAddresses[pool - 1]!) + indexOf(page) * pageBytes;
  }

  close(): void {
    this.#foreign.close();
    for (const ranges of this.#ranges) ranges.close();
    for (const pool of this.#pools) pool.close();
  }
}
