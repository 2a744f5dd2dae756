// Owns the native side of product tests: memory, an op block, calls of an emitted op on threads.
import { type Address, koffi } from '../../../../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../../../../ffi/memory.ts';
import { type ExecutableCode, loadCode } from '../../../asm/exec-memory.ts';
import type { MachineCode } from '../../../asm/program.ts';
import { interpret } from '../../../testing/interpreter.ts';
import { OpBlock, opField, ROWS_BYTES } from '../../op.ts';

type Kernel = ((op: Address, thread: number, numThreads: number) => number) & { async: (...args: unknown[]) => void };
const kernelType = koffi.proto('int64_t xllm_test_op(int64_t op, int64_t thread, int64_t numThreads)');

/** One op; `how` says where its code runs. */
export class OpMachine {
  readonly #memories: NativeMemory[] = [];
  readonly #machineCode: MachineCode;
  readonly #code: ExecutableCode | null;
  readonly #op: NativeMemory;
  readonly #rows: NativeMemory;
  readonly block: OpBlock;

  constructor(code: MachineCode, opBytes: number, how: 'native' | 'interpreted' = 'native') {
    this.#machineCode = code;
    this.#code = how === 'native' ? loadCode([code]) : null;
    this.#op = this.allocate(opBytes);
    this.#rows = this.allocate(ROWS_BYTES);
    this.block = new OpBlock(this.#op.buffer, 0, opBytes);
    this.block.set(opField.rows, this.#rows.address);
  }

  /** Memory that the op may use, freed with the machine. */
  allocate(numBytes: number): NativeMemory {
    const memory = allocateNative(numBytes);
    this.#memories.push(memory);
    return memory;
  }

  /** Of the op's rows (`rowsField`). */
  get rowsAddress(): Address {
    return this.#rows.address;
  }

  /** Runs the op for `rows` rows, threads at once. Checks that every piece was done; returns their number. */
  async run(rows: number, numThreads = 1): Promise<number> {
    new DataView(this.#rows.buffer).setBigInt64(0, BigInt(rows), true);
    const op = new DataView(this.#op.buffer);
    op.setBigUint64(opField.claimed, 0n, true);
    op.setBigUint64(opField.finished, 0n, true);
    const counts = this.#code ? await this.#runNative(this.#code, numThreads) : this.#interpret(numThreads);
    const finished = Number(op.getBigUint64(opField.finished, true));
    if (counts.some((count) => count !== finished)) throw new Error(`${finished} pieces done, not ${counts.join()}`);
    return finished;
  }

  #runNative(code: ExecutableCode, numThreads: number): Promise<number[]> {
    const kernel = koffi.decode(BigInt(code.addresses[0] ?? 0), kernelType) as Kernel;
    return Promise.all(
      Array.from(
        { length: numThreads },
        (_, thread) =>
          new Promise<number>((resolve, reject) => {
            kernel.async(this.#op.address, thread, numThreads, (error: unknown, count: unknown) =>
              error ? reject(error as Error) : resolve(Number(count)),
            );
          }),
      ),
    );
  }

  #interpret(numThreads: number): number[] {
    const regions = this.#memories.map(({ address, buffer }) => ({ address, view: new DataView(buffer) }));
    return Array.from({ length: numThreads }, (_, thread) =>
      Number(interpret(this.#machineCode, [this.#op.address, thread, numThreads], regions)),
    );
  }

  free(): void {
    this.#code?.free();
    for (const memory of this.#memories) memory.free();
  }
}
