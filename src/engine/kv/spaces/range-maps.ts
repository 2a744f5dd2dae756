// Owns the xTensor ranges of one group: reserved address space, into which plans map pages of the pool.
import { MAP, mapFixedAsync, mmap, munmap, PROT } from '../../ffi/libc.ts';
import type { GroupTables } from '../tables.ts';

export class RangeMaps {
  /** Of range 0; the others follow at `rangeBytes`. */
  readonly address: number;
  readonly rangeBytes: number;
  readonly #numBytes: number;
  readonly #pageBytes: number;
  readonly #fd: number;

  /** Throws SystemError where so much address space cannot be reserved. */
  constructor(numSlots: number, maxBlocks: number, pageBytes: number, fd: number) {
    this.rangeBytes = maxBlocks * pageBytes;
    this.#numBytes = numSlots * this.rangeBytes;
    this.#pageBytes = pageBytes;
    this.#fd = fd;
    this.address = mmap(this.#numBytes, { prot: PROT.none, flags: MAP.private | MAP.anonymous | MAP.noreserve });
  }

  /** Maps what a plan asks for, in other threads; what was mapped there before is replaced. Rejects with SystemError. */
  map(mapOps: GroupTables['mapOps']): Promise<void> {
    const entries: { address: number; offset: number; numBytes: number }[] = [];
    for (let i = 0; i < mapOps.length; ) {
      const slot = mapOps[i]!;
      const block = mapOps[i + 1]!;
      const page = mapOps[i + 2]!;
      // Neighbouring blocks with neighbouring pages take one call and one kernel mapping.
      let count = 1;
      for (; i + 3 * count < mapOps.length; count++) {
        const at = i + 3 * count;
        if (mapOps[at] !== slot || mapOps[at + 1] !== block + count || mapOps[at + 2] !== page + count) break;
      }
      entries.push({
        address: this.address + slot * this.rangeBytes + block * this.#pageBytes,
        offset: page * this.#pageBytes,
        numBytes: count * this.#pageBytes,
      });
      i += 3 * count;
    }
    return mapFixedAsync(entries, this.#fd);
  }

  close(): void {
    munmap(this.address, this.#numBytes);
  }
}
