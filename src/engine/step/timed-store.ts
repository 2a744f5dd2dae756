// Owns the memory of the timed device's pages: a memory file, so that paired instances read each other's as real ones do.
import { viewMemory } from '../ffi/koffi.ts';
import { closeFd, ftruncate, MAP, memfdCreate, mmap, munmap, PROT } from '../ffi/libc.ts';
import { describePool, poolName } from '../kv/spaces/foreign-pool.ts';
import { ForeignPools } from '../kv/spaces/foreign-pools.ts';
import type { PageStore, PoolFile } from '../kv/spaces/page-store.ts';
import { TimedPages, timedPageBytes } from './timed-pages.ts';

interface Memory {
  readonly values: Int32Array;
  readonly file: PoolFile | null;
  close(): void;
}

export class TimedStore implements PageStore {
  readonly pageBytes: readonly number[];
  readonly files: readonly PoolFile[] | null;
  readonly groups: readonly TimedPages[];
  readonly #memories: readonly Memory[];
  readonly #foreign: ForeignPools;

  private constructor(memories: readonly Memory[], blockTokens: number) {
    this.#memories = memories;
    this.groups = memories.map(({ values }) => new TimedPages(values, blockTokens));
    this.pageBytes = memories.map(() => timedPageBytes(blockTokens));
    const files = memories.map(({ file }) => file);
    this.files = files.every((file) => file !== null) ? files : null;
    this.#foreign = new ForeignPools(memories.length);
  }

  /** Memory files where there are such, which take memory as they are written. */
  static open(numPages: readonly number[], blockTokens: number): TimedStore {
    if (process.platform !== 'linux') return TimedStore.ofHeap(numPages, blockTokens);
    return new TimedStore(
      numPages.map((count) => fileMemory(count, timedPageBytes(blockTokens))),
      blockTokens,
    );
  }

  /** Of one process alone. */
  static ofHeap(numPages: readonly number[], blockTokens: number): TimedStore {
    const make = (count: number): Memory => ({
      values: new Int32Array((count * timedPageBytes(blockTokens)) / 4),
      file: null,
      close: () => {},
    });
    return new TimedStore(numPages.map(make), blockTokens);
  }

  ensure(): Promise<void> {
    return Promise.resolve();
  }

  attach(pool: number, files: readonly PoolFile[]): void {
    this.#foreign.attach(pool, files);
    files.forEach(({ numBytes }, g) => {
      const address = this.#foreign.addresses[g]![pool - 1]!;
      this.groups[g]!.setPool(pool, new Int32Array(viewMemory(address, numBytes)));
    });
  }

  detach(pool: number): void {
    for (const group of this.groups) group.setPool(pool, null);
    this.#foreign.detach(pool);
  }

  view(group: number, page: number): Uint8Array {
    const { buffer, byteOffset, byteLength } = this.groups[group]!.page(page);
    return new Uint8Array(buffer, byteOffset, byteLength);
  }

  copyPage(group: number, from: number, to: number): Promise<void> {
    this.groups[group]!.page(to).set(this.groups[group]!.page(from));
    return Promise.resolve();
  }

  close(): void {
    this.#foreign.close();
    for (const memory of this.#memories) memory.close();
  }
}

function fileMemory(numPages: number, pageBytes: number): Memory {
  const numBytes = numPages * pageBytes;
  const fd = memfdCreate(`${poolName}-timed`);
  ftruncate(fd, numBytes);
  const address = mmap(numBytes, { prot: PROT.read | PROT.write, flags: MAP.shared, fd });
  return {
    values: new Int32Array(viewMemory(address, numBytes)),
    file: describePool(fd, numBytes, pageBytes, numPages),
    close: () => {
      munmap(address, numBytes);
      closeFd(fd);
    },
  };
}
