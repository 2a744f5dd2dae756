// Owns the translation of a row's tables into segments: all that attention kernels know of the KV layout.
import { indexOf, poolOf } from '../page-ref.ts';
import type { GroupTables } from '../tables.ts';

/** A run of consecutive positions in memory. */
export interface Segment {
  /** Address of the page that holds `firstPosition`; the segment's further pages follow at stride `pageBytes`. */
  readonly address: number;
  /** A multiple of the block size. */
  readonly firstPosition: number;
  readonly numTokens: number;
}

/** Where one group's pages lie in this process's address space. */
export interface GroupMemory {
  /** Whole-pool mapping: page p is at `poolAddress + p * pageBytes`. */
  readonly poolAddress: number;
  /** The same of paired instances' pools: pool n is at n - 1. */
  readonly foreignAddresses: readonly number[];
  /** Range r starts at `rangeAddress + r * rangeBytes`; block b of it at `b * pageBytes`. 0: no ranges. */
  readonly rangeAddress: number;
  readonly rangeBytes: number;
  readonly pageBytes: number;
  readonly blockTokens: number;
}

/**
 * Calls `emit` for each segment that covers positions [from, to) of a row, in order, without allocating.
 * `from` is rounded down to its block; blocks that a sliding window released are left out.
 */
export function forEachSegment(
  memory: GroupMemory,
  tables: GroupTables,
  row: number,
  from: number,
  to: number,
  emit: (address: number, firstPosition: number, numTokens: number) => void,
): void {
  const { poolAddress, foreignAddresses, rangeAddress, rangeBytes, pageBytes, blockTokens } = memory;
  const { pages } = tables;
  const start = tables.pageStart[row]!;
  const endBlock = Math.ceil(to / blockTokens);
  let block = Math.floor(from / blockTokens);
  while (block < endBlock && pages[start + block]! < 0) block++;
  if (block >= endBlock) return;

  const slot = tables.rangeSlot[row]!;
  if (slot >= 0) {
    const firstPosition = block * blockTokens;
    emit(rangeAddress + slot * rangeBytes + block * pageBytes, firstPosition, to - firstPosition);
    return;
  }
  while (block < endBlock) {
    const firstPage = pages[start + block]!;
    let next = block + 1;
    while (next < endBlock && pages[start + next] === firstPage + next - block) next++;
    const firstPosition = block * blockTokens;
    const pool = poolOf(firstPage);
    const base = pool === 0 ? poolAddress : foreignAddresses[pool - 1]!;
    emit(base + indexOf(firstPage) * pageBytes, firstPosition, Math.min(to, next * blockTokens) - firstPosition);
    block = next;
  }
}

/** The segments of positions [from, to) of a row, as a list. */
export function segments(memory: GroupMemory, tables: GroupTables, row: number, to: number, from = 0): Segment[] {
  const list: Segment[] = [];
  forEachSegment(memory, tables, row, from, to, (address, firstPosition, numTokens) =>
    list.push({ address, firstPosition, numTokens }),
  );
  return list;
}
