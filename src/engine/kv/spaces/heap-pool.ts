// Owns one group's pool as an ordinary allocation, for systems without memory files.
import { XllmError } from '../../../common/errors.ts';
import { koffi } from '../../ffi/koffi.ts';
import type { PoolMemory } from './pool-memory.ts';

/** Cache lines and vector loads want it; page sizes are multiples of more. */
const alignment = 4096;

export class HeapPool implements PoolMemory {
  readonly file = null;
  readonly address: number;
  readonly numPages: number;
  readonly maxPages: number;
  /** Keeps the allocation until `close`. */
  #allocation: unknown;

  /** Zeroed. Throws XllmError out_of_memory. */
  constructor(numPages: number, pageBytes: number) {
    this.numPages = this.maxPages = numPages;
    const numBytes = numPages * pageBytes + alignment;
    try {
      this.#allocation = koffi.alloc('uint8_t', numBytes);
    } catch (error) {
      throw new XllmError('out_of_memory', `no ${numBytes} bytes for the KV cache`, { cause: error });
    }
    this.address = Math.ceil(Number(koffi.address(this.#allocation)) / alignment) * alignment;
  }

  ensure(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    if (this.#allocation) koffi.free(this.#allocation);
    this.#allocation = null;
  }
}
