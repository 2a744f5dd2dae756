// Owns a block of native memory that a step's kernels find through a cell, and that grows with the steps.
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { pointStepCell } from '../jit/kernels/step-block.ts';

export class GrowingBlock {
  readonly #cellBuffer: ArrayBuffer;
  readonly #cellOffset: number;
  #memory: NativeMemory | null = null;
  /** Sizes double: together they are smaller than the current one. */
  readonly #outgrown: NativeMemory[] = [];

  /** The cell: 8 bytes of native memory at a multiple of 8, which hold the block's address. */
  constructor(cellBuffer: ArrayBuffer, cellOffset: number) {
    this.#cellBuffer = cellBuffer;
    this.#cellOffset = cellOffset;
  }

  /** At least `numBytes` to fill; what the last fill left is still there. No step that reads it may be running. */
  writable(numBytes: number): ArrayBuffer {
    if (this.#memory && this.#memory.numBytes >= numBytes) return this.#memory.buffer;
    // A thread that comes late to a step that has ended may still look at it.
    if (this.#memory) this.#outgrown.push(this.#memory);
    this.#memory = allocateNative(2 ** Math.ceil(Math.log2(numBytes)));
    pointStepCell(this.#cellBuffer, this.#cellOffset, this.#memory.address);
    return this.#memory.buffer;
  }

  free(): void {
    for (const memory of [this.#memory, ...this.#outgrown]) memory?.free();
  }
}
