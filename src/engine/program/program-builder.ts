// Owns turning a list of ops into a step program that can run: code emitted once per kernel, a block per op.
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { Address } from '../ffi/koffi.ts';
import { type ExecutableCode, loadCode } from '../jit/asm/exec-memory.ts';
import type { MachineCode } from '../jit/asm/program.ts';
import { opField, setRows } from '../jit/kernels/op.ts';
import { emitProgram, programBytes, writeProgram } from '../jit/kernels/program.ts';

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
  const codes = [emitProgram(), ...kernels.values()];
  const code = loadCode(codes);
  const [program = 0, ...entries] = code.addresses;
  const entryOf = new Map([...kernels.keys()].map((name, i) => [name, entries[i] ?? 0]));
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
    kernel: entryOf.get(kernel) ?? 0,
    block: blocks.address + offsets[i]!,
  }));
  writeProgram(table.buffer, ops, { abort: words.address, stamps: 0 });
  const labels = specs.map(({ label }) => label);
  const parts = { code, codes, blocks, table, words, offsets, labels, program };
  return new StepProgram(parts, (stamps) => writeProgram(table.buffer, ops, { abort: words.address, stamps }));
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
  /** Entry of the loop. */
  readonly program: Address;
}

/** A program that is ready to run, as one ggml custom operation. */
export class StepProgram {
  readonly #parts: ProgramParts;
  readonly #rewrite: (stamps: Address) => void;
  /** Of the op blocks, in 8-byte words. */
  readonly #counters: Float64Array;
  readonly #claimed: Int32Array;
  readonly #abort: Int32Array;

  constructor(parts: ProgramParts, rewrite: (stamps: Address) => void) {
    this.#parts = parts;
    this.#rewrite = rewrite;
    this.#counters = new Float64Array(parts.blocks.buffer);
    this.#claimed = Int32Array.from(parts.offsets, (offset) => (offset + opField.claimed) / 8);
    this.#abort = new Int32Array(parts.words.buffer, 0, 1);
  }

  /** `void fn(ggml_tensor *dst, int ith, int nth, void *table)`. */
  get entry(): Address {
    return this.#parts.program;
  }

  get table(): Address {
    return this.#parts.table.address;
  }

  /** In the order of the ops. */
  get labels(): readonly string[] {
    return this.#parts.labels;
  }

  /** Emitted code, for listings and profilers. */
  get kernels(): readonly { readonly code: MachineCode; readonly address: Address }[] {
    const { code, codes } = this.#parts;
    return codes.map((each, i) => ({ code: each, address: code.addresses[i] ?? 0 }));
  }

  /** Before each run. */
  reset(): void {
    const finished = (opField.finished - opField.claimed) / 8;
    const counters = this.#counters;
    for (const at of this.#claimed) {
      counters[at] = 0;
      counters[at + finished] = 0;
    }
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
