// Owns the native side of kernel tests: matrices, a page pool, op and step blocks, and calls of emitted code.
import { type Address, koffi } from '../../../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../../../ffi/memory.ts';
import { type ExecutableCode, loadCode } from '../../asm/exec-memory.ts';
import type { MachineCode } from '../../asm/program.ts';
import type { Isa } from '../../cpu-features.ts';
import { interpret } from '../../testing/interpreter.ts';
import {
  type AttentionOptions,
  headBytes,
  type KvShape,
  type HeadRows,
  KV_OP_BYTES,
  type LayerPages,
  writeAttentionOp,
  writeKvWriteOp,
} from '../abi.ts';
import { attentionScratchBytes, emitAttentionOp } from '../attention/attention.ts';
import { emitKvWriteOp } from '../kv-write.ts';
import { opField } from '../op.ts';
import { countStep, type KvRow, type KvSegment, pointStepCell, stepBlockBytes, writeStepBlock } from '../step-block.ts';

export interface Layer {
  readonly scale: number;
  readonly softCap: number | null;
  readonly window: number | null;
  /** [H] */
  readonly sinks: Float32Array | null;
}

const MAX_THREADS = 4;
/** In the control memory: the number of tokens, the step cell, the ops. */
const at = { numTokens: 0, stepCell: 32, kvWrite: 64, attention: 64 + KV_OP_BYTES };
const kernelType = koffi.proto('int64_t xllm_test_kernel(int64_t op, int64_t thread, int64_t numThreads)');
type Call = (op: number, thread: number, numThreads: number) => void;
/** A kernel; `async` runs it on a thread of koffi's (native code only). */
export type Kernel = Call & { readonly async?: (...args: unknown[]) => void };

/** Native code runs on this CPU; interpreted code, of any ISA, on a model of it that checks every access. */
export type Execution = 'native' | 'interpreted';

export interface Matrix {
  readonly rows: HeadRows;
  readonly values: Float32Array;
  readonly index: (token: number, head: number) => number;
}

export interface StepMatrices {
  readonly queries: Matrix;
  readonly keys: Matrix;
  readonly values: Matrix;
  readonly out: AttentionOptions['out'];
}

/** One layer of one cache group, with kernels loaded. Two layers' worth of page, of which the second is used. */
export class KvMachine {
  readonly shape: KvShape;
  readonly pageBytes: number;
  readonly layerBytes: number;
  readonly #memories: NativeMemory[] = [];
  readonly #pool: NativeMemory;
  readonly #control: NativeMemory;
  readonly #code: ExecutableCode | undefined;
  readonly #pages: LayerPages;
  readonly #attention: Omit<AttentionOptions, keyof LayerPages | 'rows' | 'queries' | 'out'>;
  readonly kvWrite: Kernel;
  readonly attention: Kernel;

  constructor(shape: KvShape, isa: Isa, layer: Layer, numPages: number, execution: Execution = 'native') {
    this.shape = shape;
    this.layerBytes = 2 * shape.numKvHeads * headBytes(shape);
    this.pageBytes = Math.ceil((2 * this.layerBytes) / 4096) * 4096;
    this.#pool = this.allocate(numPages * this.pageBytes);
    // Memory that no token has written must not matter.
    new Uint16Array(this.#pool.buffer).fill(0x7fc0);
    const scratchBytes = attentionScratchBytes(shape);
    const scratch = this.allocate(scratchBytes * MAX_THREADS);
    new Uint8Array(scratch.buffer).fill(0xff);
    this.#control = this.allocate(4096);
    this.#pages = {
      stepCell: this.#control.address + at.stepCell,
      keyOffset: this.layerBytes,
      valueOffset: this.layerBytes + shape.numKvHeads * headBytes(shape),
      pageBytes: this.pageBytes,
    };
    const sinks = layer.sinks && this.allocate(4 * shape.numHeads);
    if (sinks) new Float32Array(sinks.buffer).set(layer.sinks ?? []);
    this.#attention = { ...layer, sinks: sinks?.address ?? null, scratch: scratch.address, scratchBytes };
    const codes = [emitKvWriteOp(shape, isa), emitAttentionOp(shape, isa)] as const;
    if (execution === 'interpreted') {
      const interpreted =
        (code: MachineCode): Kernel =>
        (...args) =>
          interpret(
            code,
            args,
            this.#memories.map(({ address, buffer }) => ({ address, view: new DataView(buffer) })),
          );
      [this.kvWrite, this.attention] = [interpreted(codes[0]), interpreted(codes[1])];
      return;
    }
    this.#code = loadCode(codes);
    const [write, attend] = this.#code.addresses.map((address) => koffi.decode(BigInt(address), kernelType));
    this.kvWrite = write;
    this.attention = attend;
  }

  allocate(numBytes: number): NativeMemory {
    const memory = allocateNative(Math.max(64, numBytes));
    this.#memories.push(memory);
    return memory;
  }

  get kvWriteOp(): Address {
    return this.#control.address + at.kvWrite;
  }

  get attentionOp(): Address {
    return this.#control.address + at.attention;
  }

  /** Number of pieces of an op that are done. */
  finished(op: Address): bigint {
    return new DataView(this.#control.buffer).getBigInt64(op - this.#control.address + opField.finished, true);
  }

  page(index: number): Address {
    return this.#pool.address + index * this.pageBytes;
  }

  /** A copy of all pages. */
  poolBytes(): Uint8Array {
    return new Uint8Array(this.#pool.buffer).slice();
  }

  /** Segments of a row whose blocks lie in these pages, from block `firstBlock` on. */
  segments(pages: readonly number[], firstBlock: number, endPosition: number): KvSegment[] {
    const { blockTokens } = this.shape;
    const list: { address: Address; firstPosition: number; numTokens: number }[] = [];
    for (let block = firstBlock; block * blockTokens < endPosition; block++) {
      const page = pages[block] ?? -1;
      const last = list.at(-1);
      const numTokens = Math.min(blockTokens, endPosition - block * blockTokens);
      if (last && last.address + (last.numTokens / blockTokens) * this.pageBytes === this.page(page)) {
        last.numTokens += numTokens;
      } else {
        list.push({ address: this.page(page), firstPosition: block * blockTokens, numTokens });
      }
    }
    return list;
  }

  /** Floats [tokens, heads, headDim]; heads of a token lie `gap` floats apart from dense, tokens too. */
  matrix(numTokens: number, numHeads: number, gap = 0): Matrix {
    const headStride = this.shape.headDim + gap;
    const rowStride = numHeads * headStride + gap;
    const data = this.allocate(numTokens * rowStride * 4);
    return {
      rows: { address: data.address, rowBytes: 4 * rowStride, headBytes: 4 * headStride },
      values: new Float32Array(data.buffer),
      index: (token, head) => token * rowStride + head * headStride,
    };
  }

  /** Makes the rows the current step, over these matrices. */
  step(rows: readonly KvRow[], matrices: StepMatrices): void {
    const numTokens = rows.reduce((sum, row) => sum + row.numTokens, 0);
    const memory = this.allocate(stepBlockBytes(countStep(this.shape, rows)));
    writeStepBlock(memory.buffer, 0, this.shape, this.pageBytes, rows);
    const { buffer, address } = this.#control;
    pointStepCell(buffer, at.stepCell, memory.address);
    new DataView(buffer).setBigInt64(at.numTokens, BigInt(numTokens), true);
    const common = { ...this.#pages, rows: address + at.numTokens };
    const { queries, keys, values, out } = matrices;
    writeKvWriteOp(buffer, at.kvWrite, { ...common, keys: keys.rows, values: values.rows });
    writeAttentionOp(buffer, at.attention, { ...common, ...this.#attention, queries: queries.rows, out });
  }

  free(): void {
    this.#code?.free();
    for (const memory of this.#memories) memory.free();
  }
}
