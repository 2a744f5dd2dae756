// Owns a graph's input memory: sections at fixed offsets, filled in a staging copy while the graph may still run.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';

export interface InputSection {
  readonly offset: number;
  readonly numBytes: number;
}

/** Hands out sections; the same calls give the same offsets. */
export class InputLayout {
  #numBytes = 0;

  /** Room for `count` elements of `elementBytes`. */
  section(count: number, elementBytes: number): InputSection {
    const offset = this.#numBytes;
    const numBytes = count * elementBytes;
    this.#numBytes += Math.ceil(numBytes / 64) * 64;
    return { offset, numBytes };
  }

  get numBytes(): number {
    return this.#numBytes;
  }
}

/** What a step's preparation writes; copied into the graph's memory when the step starts. */
export class StagedInputs {
  #buffer = new ArrayBuffer(4096);
  #bytes = new Uint8Array(this.#buffer);
  #numBytes = 0;

  /** Starts over with `numBytes`; old content is not cleared. */
  reset(numBytes: number): void {
    if (numBytes > this.#buffer.byteLength) {
      this.#buffer = new ArrayBuffer(2 ** Math.ceil(Math.log2(numBytes)));
      this.#bytes = new Uint8Array(this.#buffer);
    }
    this.#numBytes = numBytes;
  }

  int32({ offset, numBytes }: InputSection): Int32Array {
    return new Int32Array(this.#buffer, offset, numBytes / 4);
  }

  uint16({ offset, numBytes }: InputSection): Uint16Array {
    return new Uint16Array(this.#buffer, offset, numBytes / 2);
  }

  copyTo(memory: InputMemory): void {
    invariant(memory.numBytes >= this.#numBytes, 'inputs do not fit their graph');
    memory.bytes.set(this.#bytes.subarray(0, this.#numBytes));
  }
}

export class InputMemory {
  readonly address: Address;
  readonly numBytes: number;
  readonly bytes: Uint8Array;
  readonly #memory: NativeMemory;

  constructor(numBytes: number) {
    this.#memory = allocateNative(Math.max(1, numBytes));
    this.address = this.#memory.address;
    this.numBytes = this.#memory.numBytes;
    this.bytes = new Uint8Array(this.#memory.buffer);
  }

  free(): void {
    this.#memory.free();
  }
}
