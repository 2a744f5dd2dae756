// Owns one group's pool as a memory file: mapped whole, given memory ahead of need, on huge pages where they can be had.
import { XllmError } from '../../../common/errors.ts';
import {
  closeFd,
  fallocate,
  fallocateAsync,
  ftruncate,
  MADV,
  MAP,
  madviseAsync,
  memfdCreate,
  mmap,
  munmap,
  PAGE_BYTES,
  PROT,
  SystemError,
} from '../../ffi/libc.ts';
import { describePool, poolName } from './foreign-pool.ts';
import type { PoolFile } from './page-store.ts';
import type { PoolGrowth, PoolMemory } from './pool-memory.ts';

const hugeBytes = 2 << 20;
/** Zeroing this much takes some 30 ms of another thread. */
const chunkBytes = 64 << 20;

export class MemfdPool implements PoolMemory {
  readonly file: PoolFile;
  readonly address: number;
  readonly fd: number;
  readonly numPages: number;
  readonly #pageBytes: number;
  /** Of the file: the pool, rounded up to huge pages. */
  readonly #numBytes: number;
  readonly #reservation: { readonly address: number; readonly numBytes: number };
  readonly #growth: PoolGrowth;
  /** The first so many bytes have memory: touching them cannot raise SIGBUS or wake the out-of-memory killer. */
  #backedBytes = 0;
  /** Growth goes on until so many pages are backed. */
  #wantedPages = 0;
  #isExhausted = false;
  #growing: Promise<void> | null = null;
  #failure: Error | null = null;
  #isClosed = false;

  /** Throws SystemError where there are no memory files or address space. */
  constructor(numPages: number, pageBytes: number, growth: PoolGrowth) {
    this.numPages = numPages;
    this.#pageBytes = pageBytes;
    this.#growth = growth;
    this.#numBytes = Math.ceil((numPages * pageBytes) / hugeBytes) * hugeBytes;
    this.fd = memfdCreate(poolName);
    ftruncate(this.fd, this.#numBytes);
    this.file = describePool(this.fd, this.#numBytes, pageBytes, numPages);
    // Huge pages want equal alignment of file and address.
    const numBytes = this.#numBytes + hugeBytes;
    const base = mmap(numBytes, { prot: PROT.none, flags: MAP.private | MAP.anonymous | MAP.noreserve });
    this.#reservation = { address: base, numBytes };
    this.address = Math.ceil(base / hugeBytes) * hugeBytes;
    mmap(this.#numBytes, {
      address: this.address,
      prot: PROT.read | PROT.write,
      flags: MAP.shared | MAP.fixed,
      fd: this.fd,
    });
  }

  get maxPages(): number {
    return this.#isExhausted ? Math.min(this.numPages, this.#numBacked) : this.numPages;
  }

  async ensure(numPages: number): Promise<void> {
    this.#wantedPages = Math.max(this.#wantedPages, Math.min(numPages + this.#growth.numAheadPages, this.numPages));
    this.#grow();
    while (this.#numBacked < numPages) {
      if (this.#failure) throw this.#failure;
      if (!this.#growing) {
        throw new XllmError(
          'out_of_memory',
          `the KV cache needs ${numPages} pages of ${this.#pageBytes} bytes, and the system has memory for ${this.#numBacked}`,
        );
      }
      await this.#growing;
    }
  }

  close(): void {
    this.#isClosed = true;
    // A call in another thread may be at work on the mapping; it ends by closing.
    if (!this.#growing) this.#unmap();
  }

  get #numBacked(): number {
    return Math.floor(this.#backedBytes / this.#pageBytes);
  }

  /** Grows chunk by chunk, in the background, as far as wanted. A failure waits for whoever needs the memory. */
  #grow(): void {
    const isDone = this.#numBacked >= this.#wantedPages || this.#isExhausted || this.#failure !== null;
    if (this.#growing || isDone) return;
    this.#growing = this.#growOnce()
      .catch((error: unknown) => {
        this.#failure = error instanceof Error ? error : new Error(String(error));
      })
      .finally(() => {
        this.#growing = null;
        if (this.#isClosed) this.#unmap();
        else this.#grow();
      });
  }

  async #growOnce(): Promise<void> {
    const numBytes = Math.min(chunkBytes, this.#numBytes - this.#backedBytes);
    // Asked before, because the kernel would sooner kill a process than refuse (docs/kv.md).
    const isSpared = this.#growth.spareBytes() >= numBytes;
    if (isSpared && (await this.#back(this.#backedBytes, numBytes))) this.#backedBytes += numBytes;
    else this.#isExhausted = true;
  }

  /**
   * Gives zeroed memory to a range. One small page in each huge one, then collapsing them, zeroes everything once and
   * costs half of a plain fallocate (docs/kv.md); kernels before 6.1, or without free huge pages, take the latter.
   */
  async #back(offset: number, numBytes: number): Promise<boolean> {
    try {
      for (let at = offset; at < offset + numBytes; at += hugeBytes) fallocate(this.fd, at, PAGE_BYTES);
      if (await madviseAsync(this.address + offset, numBytes, MADV.collapse)) return true;
      await fallocateAsync(this.fd, offset, numBytes);
      return true;
    } catch (error) {
      if (error instanceof SystemError && (error.errno === 'ENOSPC' || error.errno === 'ENOMEM')) return false;
      throw error;
    }
  }

  #unmap(): void {
    munmap(this.#reservation.address, this.#reservation.numBytes);
    closeFd(this.fd);
  }
}
