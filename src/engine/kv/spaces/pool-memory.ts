// Owns the seam between a KV space and the memory behind one group's pool.

export interface PoolMemory {
  /** Page p is at `address + p * pageBytes`; never changes. */
  readonly address: number;
  /** Resolves when the first `numPages` pages can be touched. Rejects with XllmError out_of_memory. */
  ensure(numPages: number): Promise<void>;
  close(): void;
}

/** What a pool that grows must know of the system, and tell. */
export interface PoolGrowth {
  /** Pages to keep ready beyond those in use: at least what one step can take. */
  readonly numAheadPages: number;
  /** Bytes that the system can spare now. */
  readonly spareBytes: () => number;
  /** The pool cannot grow beyond this many pages. */
  readonly onShortage: (numPages: number) => void;
}
