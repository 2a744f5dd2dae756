// Owns the native side of tests of ops: their blocks, memory for their operands, and calls on several threads.
import { type Address, koffi } from '../../../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../../../ffi/memory.ts';
import { loadCode } from '../../asm/exec-memory.ts';
import type { MachineCode } from '../../asm/program.ts';
import { OpBlock } from '../op.ts';

type Kernel = ((op: Address, thread: number, numThreads: number) => number) & {
  async: (...args: unknown[]) => void;
};
const kernelType = koffi.proto('int64_t xllm_test_op(int64_t op, int64_t thread, int64_t numThreads)');

/** An op's operand: floats, or any other bytes, and where they lie. */
export interface Operand {
  readonly address: Address;
  readonly floats: Float32Array;
  readonly ints: Int32Array;
  readonly bytes: Uint8Array;
}

/** Bytes behind every operand, and what they must still be after a call. */
const GUARD_BYTES = 256;
const GUARD = 0x5a;

export class OpMachine {
  readonly #memories: NativeMemory[] = [];
  readonly #guards: Uint8Array[] = [];
  readonly #code;
  readonly #kernel: Kernel;

  constructor(code: MachineCode) {
    this.#code = loadCode([code]);
    this.#kernel = koffi.decode(BigInt(this.#code.addresses[0] ?? 0), kernelType) as Kernel;
  }

  operand(numBytes: number): Operand {
    const memory = allocateNative(numBytes + GUARD_BYTES);
    this.#memories.push(memory);
    const guard = new Uint8Array(memory.buffer, numBytes, GUARD_BYTES).fill(GUARD);
    this.#guards.push(guard);
    const bytes = new Uint8Array(memory.buffer, 0, numBytes);
    const words = Math.floor(numBytes / 4);
    const [floats, ints] = [new Float32Array(memory.buffer, 0, words), new Int32Array(memory.buffer, 0, words)];
    return { address: memory.address, floats, ints, bytes };
  }

  floats(values: ArrayLike<number>): Operand {
    const operand = this.operand(4 * values.length);
    operand.floats.set(values);
    return operand;
  }

  ints(values: ArrayLike<number>): Operand {
    const operand = this.operand(4 * values.length);
    operand.ints.set(values);
    return operand;
  }

  /** Runs an op on so many rows; every thread must find the same number of pieces, which is returned. */
  async run(
    numRows: number,
    blockBytes: number,
    write: (block: OpBlock, rows: Address) => void,
    numThreads = 1,
  ): Promise<number> {
    const memory = allocateNative(blockBytes + 8);
    new BigInt64Array(memory.buffer, blockBytes, 1)[0] = BigInt(numRows);
    write(new OpBlock(memory.buffer, 0, blockBytes), memory.address + blockBytes);
    const counts = await Promise.all(
      Array.from(
        { length: numThreads },
        (_, thread) =>
          new Promise<number>((resolve, reject) => {
            this.#kernel.async(memory.address, thread, numThreads, (error: unknown, count: number) =>
              error ? reject(error as Error) : resolve(Number(count)),
            );
          }),
      ),
    );
    const finished = Number(new BigInt64Array(memory.buffer, 64, 1)[0]);
    memory.free();
    const [count = 0] = counts;
    if (counts.some((other) => other !== count) || finished !== count)
      throw new Error(`${finished} pieces were done of ${counts.join()}`);
    if (this.#guards.some((guard) => guard.some((byte) => byte !== GUARD)))
      throw new Error('the op wrote behind an operand');
    return count;
  }

  free(): void {
    this.#code.free();
    for (const memory of this.#memories) memory.free();
  }
}
