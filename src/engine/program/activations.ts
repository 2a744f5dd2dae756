// Owns the memory that a step program's ops pass rows through: one buffer per purpose, sized for the largest step.
// Legend: T tokens, O outputs, D hidden size, H heads, G key/value heads, K head dim, F feed-forward size, V vocabulary.
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { Address } from '../ffi/koffi.ts';

/** A row-major matrix; bytes between rows. */
export interface Rows {
  readonly address: Address;
  readonly rowBytes: number;
}

/** Buffers are virtual memory until rows are written: what large steps would need costs nothing before. */
export class Activations {
  readonly #memories: NativeMemory[] = [];

  /** `rowBytes` between rows, or as many as make rows start at cache lines. */
  rows(numRows: number, rowBytes: number): Rows {
    const memory = allocateNative(Math.max(1, numRows) * rowBytes);
    this.#memories.push(memory);
    return { address: memory.address, rowBytes };
  }

  memory(numBytes: number): NativeMemory {
    const memory = allocateNative(numBytes);
    this.#memories.push(memory);
    return memory;
  }

  free(): void {
    for (const memory of this.#memories) memory.free();
  }
}

/** Columns from `column` on of F32 rows. */
export function columnsOf({ address, rowBytes }: Rows, column: number): Rows {
  return { address: address + 4 * column, rowBytes };
}
