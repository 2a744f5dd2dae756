// Owns the storage seam of the KV cache: what executors ask of memory, whatever lies behind it.
import type { PageLayout } from '../layout.ts';
import type { GroupTables } from '../tables.ts';
import type { GroupMemory } from './segments.ts';

export type KvLayout = 'xtensor' | 'blocks';

/** Pages to copy whole within a group, as (from, to) pairs: a fork's partial blocks. */
export type PageCopies = Int32Array;

export interface KvSpace {
  /** What `auto` chose, and why, for the start-up summary. */
  readonly layout: KvLayout;
  readonly reason: string;
  /** [G] for `segments`. Addresses never change. */
  readonly groups: readonly GroupMemory[];
  readonly layouts: readonly PageLayout[];
  /**
   * Gives memory to every page that the tables name and maps the ranges' new pages, off the event loop. Touches
   * nothing that a running step can read. Rejects with XllmError out_of_memory when the system has no more.
   */
  prepare(tables: readonly GroupTables[]): Promise<void>;
  /** [G] copies, each before a step reads its target. */
  copy(copies: readonly PageCopies[]): void;
  /** Unmaps everything. No step may be running. */
  close(): void;
}
