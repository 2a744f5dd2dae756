// Owns the native side of product tests: tensors, a packed matrix, its node block, and calls of emitted code.
import { type Address, koffi } from '../../../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../../../ffi/memory.ts';
import { type ExecutableCode, loadCode } from '../../asm/exec-memory.ts';
import type { MachineCode } from '../../asm/program.ts';
import type { Isa } from '../../cpu-features.ts';
import { interpret } from '../../testing/interpreter.ts';
import { tensorField } from '../abi.ts';
import { emitProduct } from '../product.ts';
import {
  PRODUCT_BLOCK_BYTES,
  type PackedFormat,
  packedBytes,
  recordBytes,
  type StripLayout,
  stripLayout,
  writeProductBlock,
} from '../product-abi.ts';
import { packRows } from '../product-pack.ts';
import { emitQuantise } from '../quantise.ts';

type Kernel = ((dst: Address, ith: number, nth: number, node: Address) => void) & {
  async: (...args: unknown[]) => void;
};
const kernelType = koffi.proto('void xllm_test_product(int64_t dst, int ith, int nth, int64_t node)');

/** One matrix [N,K] of rows in the file's format, packed. */
export class ProductMachine {
  readonly layout: StripLayout;
  readonly #N: number;
  readonly #K: number;
  readonly #numParts: number;
  readonly #code: ExecutableCode;
  readonly #weights: NativeMemory;
  readonly #control: NativeMemory;
  readonly #quantise: Kernel;
  readonly #product: Kernel;
  /** Runs instead of `#product` where the CPU cannot. */
  readonly #interpreted: MachineCode | null;

  constructor(
    format: PackedFormat,
    isa: Isa,
    rows: Uint8Array,
    N: number,
    K: number,
    numParts: 1 | 2 = 1,
    how: 'native' | 'interpreted' = 'native',
  ) {
    this.layout = stripLayout(format, isa);
    this.#N = N;
    this.#K = K;
    this.#numParts = numParts;
    const product = emitProduct(this.layout);
    this.#interpreted = how === 'interpreted' ? product : null;
    this.#code = loadCode([emitQuantise(this.layout.record, numParts), product]);
    const kernels = this.#code.addresses.map((address) => koffi.decode(BigInt(address), kernelType));
    [this.#quantise, this.#product] = kernels as [Kernel, Kernel];
    this.#weights = allocateNative(packedBytes(this.layout, N, K));
    packRows(this.layout, rows, K, new Uint8Array(this.#weights.buffer), 0);
    this.#control = allocateNative(PRODUCT_BLOCK_BYTES);
    writeProductBlock(this.#control.buffer, 0, this.layout, K, this.#weights.address);
  }

  /** x [M,K] → y [M * parts,N]. Threads run at once. What y holds behind its end is checked to be untouched. */
  async run(x: Float32Array, numThreads = 1): Promise<Float32Array> {
    const M = x.length / this.#K;
    const numProducts = M * this.#numParts;
    const numOutputs = numProducts * this.#N;
    const [source, target] = [allocateNative(x.byteLength), allocateNative(4 * numOutputs + 64)];
    const records = allocateNative(recordBytes(this.layout.record, numProducts, this.#K));
    const tensors = allocateNative(3 * 512);
    try {
      new Float32Array(source.buffer).set(x);
      new Float32Array(target.buffer).fill(-7);
      new Uint8Array(records.buffer).fill(0xff);
      const [xAt, recordsAt, yAt] = [0, 512, 1024].map((at) => tensors.address + at) as [number, number, number];
      writeTensor(tensors, 0, source.address, this.#K, M, 0);
      writeTensor(tensors, 512, records.address, 1, 1, xAt);
      writeTensor(tensors, 1024, target.address, this.#N, numProducts, recordsAt);
      await onThreads(this.#quantise, recordsAt, numThreads, 0);
      if (this.#interpreted) {
        const memories = [records, target, tensors, this.#weights, this.#control];
        const regions = memories.map(({ address, buffer }) => ({ address, view: new DataView(buffer) }));
        for (let ith = 0; ith < numThreads; ith++)
          interpret(this.#interpreted, [yAt, ith, numThreads, this.#control.address], regions);
      } else await onThreads(this.#product, yAt, numThreads, this.#control.address);
      const all = new Float32Array(target.buffer);
      if (all[numOutputs] !== -7) throw new Error('the product wrote behind its end');
      return all.slice(0, numOutputs);
    } finally {
      for (const memory of [source, target, records, tensors]) memory.free();
    }
  }

  free(): void {
    this.#code.free();
    this.#weights.free();
    this.#control.free();
  }
}

function writeTensor(memory: NativeMemory, at: number, data: Address, ne0: number, ne1: number, source: Address): void {
  const fields = new BigInt64Array(memory.buffer, at, 64);
  fields.set([ne0, ne1, 1, 1].map(BigInt), tensorField.ne / 8);
  fields.set([4, 4 * ne0, 4 * ne0 * ne1, 4 * ne0 * ne1].map(BigInt), tensorField.nb / 8);
  fields[tensorField.src / 8] = BigInt(source);
  fields[tensorField.data / 8] = BigInt(data);
}

async function onThreads(kernel: Kernel, dst: Address, numThreads: number, node: Address): Promise<void> {
  const calls = Array.from(
    { length: numThreads },
    (_, ith) =>
      new Promise<void>((resolve, reject) => {
        kernel.async(dst, ith, numThreads, node, (error: unknown) => (error ? reject(error as Error) : resolve()));
      }),
  );
  await Promise.all(calls);
}
