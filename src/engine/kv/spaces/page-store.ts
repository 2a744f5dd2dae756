// Owns what transfers ask of the memory behind the pools: pages as bytes, our own and those of paired instances.

/** A pool's memory file, as another process of the same user on this host can open and recognise it. */
export interface PoolFile {
  readonly pid: number;
  readonly fd: number;
  /** What `fstat` says of the file: a number that was given to another file since is found out. */
  readonly device: bigint;
  readonly inode: bigint;
  readonly numBytes: number;
  readonly pageBytes: number;
  readonly numPages: number;
}

export interface PageStore {
  /** [G] */
  readonly pageBytes: readonly number[];
  /** [G], or null: the pools are no files, nobody else can map them. */
  readonly files: readonly PoolFile[] | null;
  /** [G] Resolves when the first so many pages of each own pool can be touched. Rejects with XllmError out_of_memory. */
  ensure(numPages: readonly number[]): Promise<void>;
  /** Maps a paired instance's pools as pool `pool`. Throws where they cannot be opened or are not those named. */
  attach(pool: number, files: readonly PoolFile[]): void;
  /** No step in flight may use the pool. */
  detach(pool: number): void;
  /** A page's bytes, valid while its pool is attached. */
  view(group: number, page: number): Uint8Array;
  /** Copies whole pages, off the event loop where they are large. */
  copyPage(group: number, from: number, to: number): Promise<void>;
}
