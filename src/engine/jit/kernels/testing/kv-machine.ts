// Owns the native side of kernel tests: tensors, a page pool, node and step blocks, and calls of emitted code.
import { type Address, koffi } from '../../../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../../../ffi/memory.ts';
import { type ExecutableCode, loadCode } from '../../asm/exec-memory.ts';
import type { MachineCode } from '../../asm/program.ts';
import type { Isa } from '../../cpu-features.ts';
import { interpret } from '../../testing/interpreter.ts';
import {
  elementBytes,
  type KvRow,
  type KvSegment,
  type KvShape,
  NODE_BLOCK_BYTES,
  pointStepCell,
  stepBlockBytes,
  countStep,
  tensorField,
  writeNodeBlock,
  writeStepBlock,
} from '../abi.ts';
import { attentionScratchBytes, emitAttention } from '../attention/attention.ts';
import { emitKvWrite } from '../kv-write.ts';

export interface Layer {
  readonly scale: number;
  readonly softCap: number | null;
  readonly window: number | null;
}

const TENSOR_BYTES = 512;
const MAX_THREADS = 4;
const kernelType = koffi.proto('void xllm_test_kernel(int64_t dst, int ith, int nth, int64_t node)');
type Call = (dst: number, ith: number, nth: number, node: number) => void;
/** A kernel; `async` runs it on a thread of koffi's (native code only). */
export type Kernel = Call & { readonly async?: (...args: unknown[]) => void };

/** Native code runs on this CPU; interpreted code, of any ISA, on a model of it that checks every access. */
export type Execution = 'native' | 'interpreted';

/** One layer of one cache group, with kernels loaded. Two layers' worth of page, of which the second is used. */
export class KvMachine {
  readonly shape: KvShape;
  readonly pageBytes: number;
  readonly layerBytes: number;
  readonly #memories: NativeMemory[] = [];
  readonly #pool: NativeMemory;
  readonly #control: NativeMemory;
  readonly #code: ExecutableCode | undefined;
  readonly kvWrite: Kernel;
  readonly attention: Kernel;

  constructor(shape: KvShape, isa: Isa, layer: Layer, numPages: number, execution: Execution = 'native') {
    this.shape = shape;
    const headBytes = shape.blockTokens * shape.headDim * elementBytes(shape);
    this.layerBytes = 2 * shape.numKvHeads * headBytes;
    this.pageBytes = Math.ceil((2 * this.layerBytes) / 4096) * 4096;
    this.#pool = this.allocate(numPages * this.pageBytes);
    // Memory that no token has written must not matter.
    new Uint16Array(this.#pool.buffer).fill(0x7fc0);
    const scratchBytes = attentionScratchBytes(shape);
    const scratch = this.allocate(scratchBytes * MAX_THREADS);
    new Uint8Array(scratch.buffer).fill(0xff);
    this.#control = this.allocate(4096);
    writeNodeBlock(this.#control.buffer, 0, {
      stepCell: this.#control.address + NODE_BLOCK_BYTES,
      keyOffset: this.layerBytes,
      valueOffset: this.layerBytes + shape.numKvHeads * headBytes,
      pageBytes: this.pageBytes,
      ...layer,
      scratch: scratch.address,
      scratchBytes,
    });
    const codes = [emitKvWrite(shape, isa), emitAttention(shape, isa)] as const;
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

  get node(): Address {
    return this.#control.address;
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

  /** A tensor [tokens, heads, headDim] of floats; heads of a token lie `gap` floats apart from dense, tokens too. */
  tensor(
    numTokens: number,
    numHeads: number,
    gap = 0,
  ): { address: Address; values: Float32Array; index: (t: number, h: number) => number } {
    const { headDim } = this.shape;
    const headStride = headDim + gap;
    const tokenStride = numHeads * headStride + gap;
    const data = this.allocate(numTokens * tokenStride * 4);
    const header = this.allocate(TENSOR_BYTES);
    const view = new BigInt64Array(header.buffer);
    view.set([headDim, numHeads, numTokens, 1].map(BigInt), tensorField.ne / 8);
    view.set([4, headStride * 4, tokenStride * 4, numTokens * tokenStride * 4].map(BigInt), tensorField.nb / 8);
    view[tensorField.data / 8] = BigInt(data.address);
    return {
      address: header.address,
      values: new Float32Array(data.buffer),
      index: (token, head) => token * tokenStride + head * headStride,
    };
  }

  setSources(tensor: Address, sources: readonly Address[]): void {
    const header = this.#memories.find((memory) => memory.address === tensor);
    if (!header) throw new Error('not a tensor of this machine');
    new BigInt64Array(header.buffer).set(sources.map(BigInt), tensorField.src / 8);
  }

  /** Makes the rows the current step. */
  step(rows: readonly KvRow[], paddedTokens: number): void {
    const memory = this.allocate(stepBlockBytes(countStep(this.shape, rows, paddedTokens)));
    writeStepBlock(memory.buffer, 0, this.shape, this.pageBytes, rows, paddedTokens);
    pointStepCell(this.#control.buffer, NODE_BLOCK_BYTES, memory.address);
  }

  free(): void {
    this.#code?.free();
    for (const memory of this.#memories) memory.free();
  }
}
