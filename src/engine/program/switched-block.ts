// Owns a block of native memory in two copies: one is written while the running step reads the other.
import { invariant } from '../../common/errors.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { pointStepCell } from '../jit/kernels/step-block.ts';

/** Kernels find the current copy through a cell: 8 bytes that hold its address. */
export class SwitchedBlock {
  readonly #cellBuffer: ArrayBuffer;
  readonly #cellOffset: number;
  /** The first is the one to write next. */
  readonly #copies: (NativeMemory | null)[] = [null, null];
  /** Sizes double: together they are smaller than the copies. */
  readonly #outgrown: NativeMemory[] = [];

  /** `cellOffset`: of the cell in native memory, a multiple of 8. */
  constructor(cellBuffer: ArrayBuffer, cellOffset: number) {
    this.#cellBuffer = cellBuffer;
    this.#cellOffset = cellOffset;
  }

  /** At least `numBytes` to fill; the content of the last but one fill is still there. */
  writable(numBytes: number): ArrayBuffer {
    const [copy] = this.#copies;
    if (copy && copy.numBytes >= numBytes) return copy.buffer;
    // A thread that comes late to the step before may still look at it.
    if (copy) this.#outgrown.push(copy);
    const grown = allocateNative(2 ** Math.ceil(Math.log2(numBytes)));
    this.#copies[0] = grown;
    return grown.buffer;
  }

  /** What was written is what the next step reads. No step may be running. */
  publish(): void {
    const [copy] = this.#copies;
    invariant(copy, 'nothing was written');
    pointStepCell(this.#cellBuffer, this.#cellOffset, copy.address);
    this.#copies.reverse();
  }

  free(): void {
    for (const copy of [...this.#copies, ...this.#outgrown]) copy?.free();
  }
}
