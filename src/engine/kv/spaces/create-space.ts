// Owns choosing and composing a KV space: which memory lies behind the pools, and whether sequences get ranges.
import { readFileSync } from 'node:fs';
import { XllmError } from '../../../common/errors.ts';
import { SystemError } from '../../ffi/libc.ts';
import { readAvailableMemory } from '../available-memory.ts';
import type { CacheGroup } from '../cache-group.ts';
import { type PageLayout, pageLayout } from '../layout.ts';
import { HeapPool } from './heap-pool.ts';
import type { KvLayout, KvSpace } from './kv-space.ts';
import { MemfdPool } from './memfd-pool.ts';
import type { PageStore } from './page-store.ts';
import type { PoolGrowth } from './pool-memory.ts';
import { PooledSpace } from './pooled-space.ts';
import { RangeMaps } from './range-maps.ts';

/** Share of the kernel's mappings per process that ranges may use: libraries, threads and heaps need some too. */
const mappingShare = 0.6;
/** The kernel's default for vm.max_map_count. */
const defaultMaxMappings = 65_530;
/** Share of the memory available at the start that pools leave alone, whoever else has taken memory since. */
const reserveShare = 0.1;

export interface KvSpaceOptions {
  readonly groups: readonly CacheGroup[];
  /** [G] */
  readonly numPages: readonly number[];
  readonly blockTokens: number;
  readonly maxModelLen: number;
  /** Sequences that can have a range at one time. */
  readonly maxNumSeqs: number;
  /** Tokens of one step, at most. */
  readonly maxBatchedTokens: number;
  readonly layout: KvLayout | 'auto';
  /** Whether the kernels want each sequence in one piece: `auto` gives them ranges only then. */
  readonly gainsFromRanges: boolean;
  /** The system has memory for so many pages only: to be passed to `KvCache.limitPages`. Called within `prepare`. */
  readonly onShortage: (group: number, numPages: number) => void;
}

/** A space, and what `KvCache` must know of its ranges. */
export interface CreatedSpace {
  readonly space: KvSpace & PageStore;
  readonly numRangeSlots: number;
  readonly maxMappings: number;
}

/**
 * Resolves once there is some memory; more follows in the background. Rejects with XllmError: out_of_memory when there is none,
 * native_unavailable when `xtensor` is demanded and cannot be had.
 */
export async function createKvSpace(options: KvSpaceOptions): Promise<CreatedSpace> {
  const { layout, maxNumSeqs, onShortage } = options;
  const layouts = options.groups.map((group) => pageLayout(group, options.blockTokens));
  const pools = tryMemfdPools(options, layouts);
  if (typeof pools === 'string') {
    if (layout === 'xtensor') throw unavailable(pools);
    const heaps = layouts.map(({ pageBytes }, g) => new HeapPool(options.numPages[g]!, pageBytes));
    return withoutRanges(new PooledSpace(layouts, heaps, [], pools, onShortage));
  }
  try {
    await Promise.all(pools.map((pool) => pool.ensure(1)));
  } catch (error) {
    for (const pool of pools) pool.close();
    throw error;
  }
  if (layout === 'blocks' || (layout === 'auto' && !options.gainsFromRanges)) {
    const reason = layout === 'blocks' ? 'as set' : 'these kernels read them as fast as ranges, and nothing is to map';
    return withoutRanges(new PooledSpace(layouts, pools, [], reason, onShortage));
  }
  const ranges = tryRanges(options, layouts, pools);
  if (typeof ranges === 'string') {
    if (layout === 'auto') return withoutRanges(new PooledSpace(layouts, pools, [], ranges, onShortage));
    for (const pool of pools) pool.close();
    throw unavailable(ranges);
  }
  const maxMappings = Math.floor(readMaxMappings() * mappingShare);
  const reason = layout === 'auto' ? `block lists beyond ${maxMappings} mappings` : 'as set';
  return { space: new PooledSpace(layouts, pools, ranges, reason, onShortage), numRangeSlots: maxNumSeqs, maxMappings };
}

function withoutRanges(space: PooledSpace): CreatedSpace {
  return { space, numRangeSlots: 0, maxMappings: 0 };
}

/** [G] pools, or why there are none. */
function tryMemfdPools(options: KvSpaceOptions, layouts: readonly PageLayout[]): MemfdPool[] | string {
  if (process.platform !== 'linux') return `${process.platform} has no memory files`;
  const reserveBytes = readAvailableMemory().bytes * reserveShare;
  const growth: PoolGrowth = {
    numAheadPages: numAheadPages(options),
    spareBytes: () => readAvailableMemory().bytes - reserveBytes,
  };
  return allOrNone(layouts, ({ pageBytes }, g) => new MemfdPool(options.numPages[g]!, pageBytes, growth));
}

/** [G] ranges, or why there are none. */
function tryRanges(
  options: KvSpaceOptions,
  layouts: readonly PageLayout[],
  pools: readonly MemfdPool[],
): RangeMaps[] | string {
  const maxBlocks = Math.ceil(options.maxModelLen / options.blockTokens);
  const make = ({ pageBytes }: PageLayout, g: number): RangeMaps =>
    new RangeMaps(options.maxNumSeqs, maxBlocks, pageBytes, pools[g]!.fd);
  return allOrNone(layouts, make);
}

/** Makes one of each, or closes those made and says what the system refused. */
function allOrNone<From, To extends { close(): void }>(
  all: readonly From[],
  make: (from: From, index: number) => To,
): To[] | string {
  const made: To[] = [];
  try {
    for (const [index, from] of all.entries()) made.push(make(from, index));
    return made;
  } catch (error) {
    for (const one of made) one.close();
    if (error instanceof SystemError) return error.message;
    throw error;
  }
}

/** Pages that two steps can take: one in flight and one being prepared. */
function numAheadPages({ maxBatchedTokens, blockTokens, maxNumSeqs }: KvSpaceOptions): number {
  return 2 * (Math.ceil(maxBatchedTokens / blockTokens) + maxNumSeqs);
}

function readMaxMappings(): number {
  try {
    return Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8'));
  } catch (error) {
    // Hidden in some sandboxes.
    if (error instanceof Error && 'code' in error) return defaultMaxMappings;
    throw error;
  }
}

function unavailable(why: string): XllmError {
  return new XllmError('native_unavailable', `--kv-layout xtensor cannot be had: ${why}; use --kv-layout auto`);
}
