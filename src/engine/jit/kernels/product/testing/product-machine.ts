// Owns a product to test: a packed random matrix, activations, and the op that multiplies them.
import type { Isa } from '../../../cpu-features.ts';
import { fineRecord, plainRecord, recordRowBytes } from '../abi.ts';
import type { Gate } from '../gate.ts';
import { type PackedFormat, type PackedLayout, packedBytes } from '../layout.ts';
import { gatedRows, packRows } from '../pack.ts';
import { emitProduct } from '../product.ts';
import { PRODUCT_OP_BYTES, writeProductOp } from '../product-op.ts';
import { recordsOf } from '../records.ref.ts';
import { OpMachine } from './op-machine.ts';
import { generator, layoutOf, randomActivations, randomRows } from './random.ts';

export interface ProblemOptions {
  readonly format: PackedFormat;
  readonly isa: Isa;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly seed: number;
  readonly isFine?: boolean;
  readonly gate?: Gate;
  readonly hasBias?: boolean;
  readonly adds?: boolean;
}

export interface Problem {
  readonly layout: PackedLayout;
  readonly isFine: boolean;
  readonly packed: Uint8Array;
  readonly x: Float32Array;
  readonly N: number;
  readonly K: number;
  readonly gate: Gate | null;
  readonly bias: Float32Array | null;
  /** What outputs are added to. */
  readonly old: Float32Array | null;
}

/** Between rows of outputs: must stay as it was. */
const PADDING = 3;
const UNTOUCHED = -7;

export class ProductMachine {
  readonly problem: Problem;
  readonly #machine: OpMachine;
  readonly #xRowBytes: number;
  readonly #xBytes: Uint8Array;
  readonly #x: Uint8Array;
  readonly #out: Float32Array;

  constructor(options: ProblemOptions, how: 'native' | 'interpreted' = 'native') {
    const { format, isa, M, N, K, seed, isFine = false, gate = null, hasBias = false, adds = false } = options;
    const layout = layoutOf(format);
    const random = generator(seed);
    const x = randomActivations(M, K, random);
    const bias = hasBias ? Float32Array.from({ length: N }, () => random() - 0.5) : null;
    const old = adds ? Float32Array.from({ length: M * N }, () => random() - 0.5) : null;
    const kind = { layout, isa, isFine, gate };
    const machine = new OpMachine(emitProduct(kind), PRODUCT_OP_BYTES, how);
    this.#machine = machine;
    const weights = machine.allocate(packedBytes(layout, gate ? gatedRows(N) : N, K));
    const packed = new Uint8Array(weights.buffer);
    packRows(layout, randomRows(format, N, K, random), K, packed, 0, gate ? 'gate' : 'plain');
    if (gate) packRows(layout, randomRows(format, N, K, random), K, packed, 0, 'up');
    this.problem = { layout, isFine, packed, x, N, K, gate, bias, old };

    const record = isFine ? fineRecord : plainRecord;
    this.#xRowBytes = layout.kind === 'float' ? 4 * K : recordRowBytes(record, K);
    this.#xBytes = layout.kind === 'float' ? new Uint8Array(x.buffer) : recordsOf(record, x, K);
    const xMemory = machine.allocate(this.#xBytes.length);
    this.#x = new Uint8Array(xMemory.buffer);
    const outMemory = machine.allocate(4 * M * (N + PADDING));
    this.#out = new Float32Array(outMemory.buffer);
    const biasMemory = bias ? machine.allocate(bias.byteLength) : null;
    if (bias && biasMemory) new Float32Array(biasMemory.buffer).set(bias);
    writeProductOp(machine.block, kind, {
      N,
      K,
      weights: weights.address,
      x: xMemory.address,
      xRowBytes: this.#xRowBytes,
      out: outMemory.address,
      outRowBytes: 4 * (N + PADDING),
      bias: biasMemory?.address ?? null,
      mode: adds ? 'add' : 'store',
    });
  }

  /** Multiplies `numRows` rows of x from `firstRow` on. What stands between rows of outputs is checked to be untouched. */
  async run(numThreads = 1, firstRow = 0, numRows = this.problem.x.length / this.problem.K): Promise<Float32Array> {
    const { N, old } = this.problem;
    this.#x.fill(0xff);
    this.#x.set(this.#xBytes.subarray(firstRow * this.#xRowBytes, (firstRow + numRows) * this.#xRowBytes));
    this.#out.fill(UNTOUCHED);
    const width = N + PADDING;
    for (let m = 0; old && m < numRows; m++) this.#out.set(old.subarray(m * N, (m + 1) * N), m * width);
    await this.#machine.run(numRows, numThreads);
    const out = new Float32Array(numRows * N);
    for (let m = 0; m < numRows; m++) out.set(this.#out.subarray(m * width, m * width + N), m * N);
    const isTouched = this.#out.some((value, at) => (at % width >= N || at >= numRows * width) && value !== UNTOUCHED);
    if (isTouched) throw new Error('the product wrote beside its outputs');
    return out;
  }

  free(): void {
    this.#machine.free();
  }
}
