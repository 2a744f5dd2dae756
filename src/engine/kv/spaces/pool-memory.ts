// Owns the seam between a KV space and the memory behind one group's pool.
import type { PoolFile } from './page-store.ts';

export interface PoolMemory {
  /** Where another process finds it; null: nowhere. */
  readonly file: PoolFile | null;
  /** Page p is at `address + p * pageBytes`; never changes. */
  readonly address: number;
  /** As planned. */
  readonly numPages: number;
  /** Pages that the pool can have at all: fewer than planned once the system had no more memory for it. */
  readonly maxPages: number;
  /** Resolves when the first `numPages` pages can be touched. Rejects with XllmError out_of_memory. */
  ensure(numPages: number): Promise<void>;
  close(): void;
}

/** What a pool that grows must know. */
export interface PoolGrowth {
  /** Pages to keep ready beyond those in use: what the steps before the next look at `maxPages` can take. */
  readonly numAheadPages: number;
  /** Bytes that the system can spare now. */
  readonly spareBytes: () => number;
}
