// Owns turning a list of ops into a step program that can run: code emitted once per kernel, a block per op.
import { invariant } from '../../common/errors.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { Address } from '../ffi/koffi.ts';
import { type ExecutableCode, loadCode, type PlacedCode } from '../jit/asm/exec-memory.ts';
import type { MachineCode } from '../jit/asm/program.ts';
import { setRows } from '../jit/kernels/op.ts';
import { programBytes, writeProgram } from '../jit/kernels/program.ts';

/** One op of a program, before it has an address. */
export interface OpSpec {
  /** Kernels of equal names are emitted once. */
  readonly kernel: string;
  readonly emit: () => MachineCode;
  /** What people call the op: in profiles. */
  readonly label: string;
  /** Address of the i64 number of rows that it works on. */
  readonly rows: Address;
  readonly blockBytes: number;
  /** Sets the kernel's own fields in the block at `byteOffset`. */
  readonly write: (buffer: ArrayBuffer, byteOffset: number) => void;
}

const LINE_BYTES = 64;

/** Programs of the same kernels. */
export interface ProgramSet {
  readonly programs: readonly StepProgram[];
  /** Emitted code, for listings and profilers. */
  readonly kernels: readonly PlacedCode[];
  /** No run may follow. */
  free(): void;
}

/** Emits each kernel once and lays out a program for each list. Throws SystemError when the system refuses memory. */
export function buildPrograms(lists: readonly (readonly OpSpec[])[]): ProgramSet {
  const emitted = new Map<string, MachineCode>();
  for (const { kernel, emit } of lists.flat()) if (!emitted.has(kernel)) emitted.set(kernel, emit());
  const code = loadCode([...emitted.values()]);
  const kernels = [...emitted.values()].map((each, i) => ({ code: each, address: addressAt(code, i) }));
  const addresses = new Map([...emitted.keys()].map((name, i) => [name, addressAt(code, i)]));
  const programs = lists.map((specs) => layOut(specs, addresses));
  return {
    programs,
    kernels,
    free: () => {
      for (const program of programs) program.free();
      code.free();
    },
  };
}

function layOut(specs: readonly OpSpec[], addresses: ReadonlyMap<string, Address>): StepProgram {
  const offsets: number[] = [];
  let numBytes = 0;
  for (const { blockBytes } of specs) {
    offsets.push(numBytes);
    numBytes += Math.ceil(blockBytes / LINE_BYTES) * LINE_BYTES;
  }
  const blocks = allocateNative(numBytes);
  for (const [i, { rows, write }] of specs.entries()) {
    write(blocks.buffer, offsets[i]!);
    setRows(blocks.buffer, offsets[i]!, rows);
  }
  const table = allocateNative(programBytes(specs.length));
  const words = allocateNative(LINE_BYTES + 8 * (specs.length + 1));
  const ops = specs.map(({ kernel: name }, i) => {
    const kernel = addresses.get(name);
    invariant(kernel, `no code was loaded for kernel ${name}`);
    return { kernel, block: blocks.address + offsets[i]! };
  });
  writeProgram(table.buffer, ops, { abort: words.address, stamps: 0 });
  const labels = specs.map(({ label }) => label);
  const parts = { blocks, table, words, offsets, labels };
  return new StepProgram(parts, (stamps) => writeProgram(table.buffer, ops, { abort: words.address, stamps }));
}

function addressAt({ addresses }: ExecutableCode, index: number): Address {
  const address = addresses[index];
  invariant(address, `no code was loaded for kernel ${index}`);
  return address;
}

interface ProgramParts {
  readonly blocks: NativeMemory;
  readonly table: NativeMemory;
  /** The abort word, and from the next line on time stamps. */
  readonly words: NativeMemory;
  readonly offsets: readonly number[];
  readonly labels: readonly string[];
}

/** A program that a team of threads can run. */
export class StepProgram {
  readonly #parts: ProgramParts;
  readonly #rewrite: (stamps: Address) => void;
  readonly #abort: Int32Array;

  constructor(parts: ProgramParts, rewrite: (stamps: Address) => void) {
    this.#parts = parts;
    this.#rewrite = rewrite;
    this.#abort = new Int32Array(parts.words.buffer, 0, 1);
  }

  /** What `emitProgram`'s code takes. */
  get address(): Address {
    return this.#parts.table.address;
  }

  /** In the order of the ops. */
  get labels(): readonly string[] {
    return this.#parts.labels;
  }

  /** Takes back an `abort`, before the next run. */
  reset(): void {
    this.#abort[0] = 0;
  }

  /** No op of the running step starts after this; its results are worthless. */
  abort(): void {
    Atomics.store(this.#abort, 0, 1);
  }

  /** Time stamp counter before each op and after the last, of the run that ended last; from the next run on. */
  stamps(): BigUint64Array {
    const { words, labels } = this.#parts;
    this.#rewrite(words.address + LINE_BYTES);
    return new BigUint64Array(words.buffer, LINE_BYTES, labels.length + 1);
  }

  /** No run may follow. */
  free(): void {
    const { blocks, table, words } = this.#parts;
    for (const memory of [blocks, table, words]) memory.free();
  }
}
