// Owns products with weights: by ggml, or by emitted kernels from matrices packed for them.
// Legend: T tokens, K length of a row, N output features.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { canExecute, type ExecutableCode, loadCode } from '../jit/asm/exec-memory.ts';
import { cpuFeatures, type Isa, supportedIsas } from '../jit/cpu-features.ts';
import { emitProduct } from '../jit/kernels/product.ts';
import {
  PRODUCT_BLOCK_BYTES,
  packedFormats,
  recordBytes,
  type StripLayout,
  stripLayout,
  writeProductBlock,
} from '../jit/kernels/product-abi.ts';
import { emitQuantise } from '../jit/kernels/quantise.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { TensorType } from './dtype.ts';
import type { Graph } from './graph.ts';
import { add, custom, multiply } from './ops.ts';
import { type Packing, packingOf, packingSpec } from './packing.ts';
import { match, type Tensor } from './tensor.ts';

/** A matrix of weights [N,K]. */
export interface Matrix {
  /** x [T,K] → F32 [T,N]. Each output depends on its row of x only. */
  multiply(g: Graph, x: Tensor): Tensor;
}

/** A matrix as ggml takes it: rows below each other, in the file's format. */
export class PlainMatrix implements Matrix {
  readonly #tensor: Tensor;

  constructor(tensor: Tensor) {
    this.#tensor = tensor;
  }

  multiply(g: Graph, x: Tensor): Tensor {
    return multiply(g, x, this.#tensor);
  }
}

/** What multiplies: an instruction set's emitted kernels, or ggml. */
export type ProductKernels = Isa | 'ggml';

/** `auto`: the best that runs here. Another choice that cannot run falls back to ggml. */
export function chooseProducts(wanted: 'auto' | ProductKernels): ProductKernels {
  const { avx512Vnni } = cpuFeatures();
  // Without VNNI the 512-bit form has no instruction for its sums.
  const usable = supportedIsas().filter((isa) => isa !== 'avx512' || avx512Vnni);
  const isa = wanted === 'auto' || wanted === 'avx512' ? usable[0] : usable.find((each) => each === wanted);
  return isa && canExecute().ok ? isa : 'ggml';
}

interface Kernel {
  readonly packing: Packing;
  readonly layout: StripLayout;
  readonly quantise: Address;
  /** In two parts. */
  readonly quantiseFine: Address;
  readonly product: Address;
}

/** The emitted kernels of all packed formats, and the node blocks of the matrices made with them. */
export class EmittedProducts {
  readonly #code: ExecutableCode;
  readonly #kernels: ReadonlyMap<TensorType, Kernel>;
  readonly #blocks: NativeMemory[] = [];

  constructor(isa: Isa) {
    const layouts = packedFormats.map((format) => stripLayout(format, isa));
    this.#code = loadCode(
      layouts.flatMap((layout) => [emitQuantise(layout.record), emitQuantise(layout.record, 2), emitProduct(layout)]),
    );
    this.#kernels = new Map(layouts.map((layout, i) => [layout.format, this.#kernel(layout, 3 * i)]));
  }

  #kernel(layout: StripLayout, codeIndex: number): Kernel {
    const [quantise, quantiseFine, product] = this.#code.addresses.slice(codeIndex, codeIndex + 3);
    invariant(quantise && quantiseFine && product, `no code for ${layout.format}`);
    return {
      packing: packingOf(packingSpec(layout.format, layout.isa)),
      layout,
      quantise,
      quantiseFine,
      product,
    };
  }

  /** null: products with this format stay ggml's. */
  packing(type: TensorType): Packing | null {
    return this.#kernels.get(type)?.packing ?? null;
  }

  /**
   * A matrix [N,K] that was packed to `address`; it may be used until `free`. With `isFine` activations keep about 15
   * bits instead of 7 (formats whose records are wide have them anyway): twice the arithmetic, the same memory traffic.
   */
  matrix(type: TensorType, [N, K]: readonly [number, number], address: Address, isFine: boolean): Matrix {
    const kernel = this.#kernels.get(type);
    invariant(kernel, `${type} is not a packed format`);
    const { layout, quantise, quantiseFine, product } = kernel;
    const { record } = layout;
    const block = allocateNative(PRODUCT_BLOCK_BYTES);
    this.#blocks.push(block);
    writeProductBlock(block.buffer, 0, layout, K, address);
    const inParts = isFine && record.element === 's8';
    return {
      multiply(g, x) {
        const { T } = match({ x: [x, 'T', K] }) as { T: number };
        invariant(x.type === 'F32' && x.strides[1] === 4, 'elements of a row must be adjacent floats');
        const numRows = inParts ? 2 * T : T;
        const records = custom(g, 'I8', [recordBytes(record, numRows, K)], [x], inParts ? quantiseFine : quantise, 0);
        const products = custom(g, 'F32', [numRows, N], [records], product, block.address);
        if (!inParts) return products;
        // Rows 2t and 2t+1 are the two parts of row t.
        const part = (which: number) => g.view(products, [T, N], [2 * N * 4, 4], which * N * 4);
        return add(g, part(0), part(1));
      },
    };
  }

  /** No graph that multiplies with these matrices may run afterwards. */
  free(): void {
    this.#code.free();
    for (const block of this.#blocks) block.free();
  }
}
