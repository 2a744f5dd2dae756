// Owns the offsets inside ggml's structures that the engine reads or writes, and the check that they still hold.
import { XllmError } from '../../common/errors.ts';
import type { Ggml } from './ggml.ts';
import { type Address, viewMemory } from './koffi.ts';

/** struct ggml_tensor, ggml 0.25 (ggml.h). Byte offsets. */
const tensorField = {
  type: 0,
  ne: 16,
  nb: 48,
  src: 152,
  viewSrc: 232,
  viewOffset: 240,
  data: 248,
  name: 256,
} as const;
export const maxSources = 10;

/** struct ggml_cplan (ggml-cpu.h). Byte offsets. */
export const planField = {
  workSize: 0,
  workData: 8,
  numThreads: 16,
  threadpool: 24,
  abortCallback: 32,
  abortData: 40,
} as const;
export const planBytes = 56;

/** The memory that a context keeps its tensors in, with the fields readable and writable from here. */
export class TensorMemory {
  readonly #base: Address;
  readonly #view: DataView;

  constructor(base: Address, numBytes: number) {
    this.#base = base;
    this.#view = new DataView(viewMemory(base, numBytes));
  }

  /** Whether the tensor is one of this context's. */
  holds(tensor: Address): boolean {
    return tensor >= this.#base && tensor < this.#base + this.#view.byteLength;
  }

  #address(tensor: Address, field: number): Address {
    // In halves: big integers cost ten times as much, and graphs are read by the thousand fields.
    const at = tensor - this.#base + field;
    return this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 2 ** 32;
  }

  #set(tensor: Address, field: number, value: number): void {
    const at = tensor - this.#base + field;
    this.#view.setUint32(at, value % 2 ** 32, true);
    this.#view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }

  type(tensor: Address): number {
    return this.#view.getInt32(tensor - this.#base + tensorField.type, true);
  }

  /** ne, innermost first. */
  dims(tensor: Address): [number, number, number, number] {
    const at = (i: number) => this.#address(tensor, tensorField.ne + 8 * i);
    return [at(0), at(1), at(2), at(3)];
  }

  /** nb: strides in bytes, innermost first. */
  strides(tensor: Address): [number, number, number, number] {
    const at = (i: number) => this.#address(tensor, tensorField.nb + 8 * i);
    return [at(0), at(1), at(2), at(3)];
  }

  source(tensor: Address, index: number): Address {
    return this.#address(tensor, tensorField.src + 8 * index);
  }

  /** The tensor whose memory a view shows; 0 for others. */
  viewSource(tensor: Address): Address {
    return this.#address(tensor, tensorField.viewSrc);
  }

  viewOffset(tensor: Address): number {
    return this.#address(tensor, tensorField.viewOffset);
  }

  data(tensor: Address): Address {
    return this.#address(tensor, tensorField.data);
  }

  /** Sets nb[dim], bytes. */
  setStride(tensor: Address, dim: number, numBytes: number): void {
    this.#set(tensor, tensorField.nb + 8 * dim, numBytes);
  }

  /** Gives a tensor memory that ggml does not own. Views made before keep their old address. */
  setData(tensor: Address, data: Address): void {
    this.#set(tensor, tensorField.data, data);
  }
}

/** Throws XllmError native_unavailable when the loaded library's structures are not those described here. */
export function assertLayout(ggml: Ggml, planMatches: boolean): void {
  const ctx = ggml.init({ mem_size: 16_384, mem_buffer: null, no_alloc: false });
  const memory = new TensorMemory(ggml.memBuffer(ctx), ggml.memSize(ctx));
  const a = ggml.newTensor(ctx, 0, 6, 5, 3, 2);
  const b = ggml.newTensor(ctx, 0, 6, 5, 3, 2);
  const sum = ggml.add(ctx, a, b);
  const view = ggml.view4d(ctx, a, 2, 5, 3, 2, 24, 120, 360, 8);
  const checks: readonly [string, boolean][] = [
    ['ggml_tensor.ne', memory.dims(a).join() === '6,5,3,2'],
    ['ggml_tensor.nb', memory.strides(a).join() === '4,24,120,360'],
    ['ggml_tensor.src', memory.source(sum, 0) === a && memory.source(sum, 1) === b && memory.source(sum, 2) === 0],
    ['ggml_tensor.data', memory.data(a) === ggml.getData(a) && memory.data(view) === memory.data(a) + 8],
    [
      'ggml_tensor.view_src',
      memory.viewSource(view) === a && memory.viewOffset(view) === 8 && memory.viewSource(a) === 0,
    ],
    ['ggml_tensor.type', memory.type(ggml.newTensor(ctx, 8, 32, 1, 1, 1)) === 8],
    ['ggml_cplan', planMatches],
  ];
  ggml.free(ctx);
  const wrong = checks.find(([, ok]) => !ok);
  if (wrong) {
    throw new XllmError(
      'native_unavailable',
      `ggml ${ggml.version} lays out ${wrong[0]} differently than expected; install the pinned @node-llama-cpp version`,
    );
  }
}
