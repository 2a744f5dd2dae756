// Owns turning a list of ops into a step program that can run: code emitted once per kernel, a block per op.
import { invariant } from '../../common/errors.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { Address } from '../ffi/koffi.ts';
import { type ExecutableCode, loadCode } from '../jit/asm/exec-memory.ts';
import type { MachineCode } from '../jit/asm/program.ts';
import { resetCounters, setRows } from '../jit/kernels/op.ts';
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

/** Emits and lays out. Throws SystemError when the system refuses memory. */
export function buildProgram(specs: readonly OpSpec[]): StepProgram {
  const kernels = new Map<string, MachineCode>();
  for (const { kernel, emit } of specs) if (!kernels.has(kernel)) kernels.set(kernel, emit());
  const codes = [...kernels.values()];
  const code = loadCode(codes);
  const names = [...kernels.keys()];
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
  const ops = specs.map(({ kernel }, i) => ({
    kernel: addressAt(code, names.indexOf(kernel)),
    block: blocks.address + offsets[i]!,
  }));
  writeProgram(table.buffer, ops, { abort: words.address, stamps: 0 });
  const labels = specs.map(({ label }) => label);
  const parts = { code, codes, blocks, table, words, offsets, labels };
  return new StepProgram(parts, (stamps) => writeProgram(table.buffer, ops, { abort: words.address, stamps }));
}

function addressAt({ addresses }: ExecutableCode, index: number): Address {
  const address = addresses[index];
  invariant(address, `no code was loaded for kernel ${index}`);
  return address;
}

interface ProgramParts {
  readonly code: ExecutableCode;
  readonly codes: readonly MachineCode[];
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
  /** Of the op blocks. */
  readonly #words: Int32Array;
  readonly #abort: Int32Array;

  constructor(parts: ProgramParts, rewrite: (stamps: Address) => void) {
    this.#parts = parts;
    this.#rewrite = rewrite;
    this.#words = new Int32Array(parts.blocks.buffer);
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

  /** Emitted code, for listings and profilers. */
  get kernels(): readonly { readonly code: MachineCode; readonly address: Address }[] {
    const { code, codes } = this.#parts;
    return codes.map((each, i) => ({ code: each, address: addressAt(code, i) }));
  }

  /** Before each run, with the team's next generation. */
  reset(generation: number): void {
    resetCounters(this.#words, this.#parts.offsets, generation);
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
    const { code, blocks, table, words } = this.#parts;
    code.free();
    for (const memory of [blocks, table, words]) memory.free();
  }
}
