// Owns the inner loop of a product with float weights: one strip of W by a tile of rows of x.
// Legend: C rows of x.
import type { Mem } from '../../asm/operands.ts';
import type { Vec } from '../../asm/registers.ts';
import { type FloatLayout, STRIP_ROWS } from './layout.ts';
import { PARTS, type TileCode, type TileRegisters } from './registers.ts';

const FLOAT_BYTES = 4;
const UNROLLED = 4;
/** Bytes of weights that the inner loop takes at a time. */
export const floatBlockBytes = ({ elementBytes }: FloatLayout): number => UNROLLED * STRIP_ROWS * elementBytes;
/** From BF16 to F32: the upper half of the bits. */
const BF16_SHIFT = 16;

/**
 * totals[2 c + part] = Σ over k, in order: total = fma(w, x, total), with F32(w) exact. A tile of six rows has 12 chains
 * of sums, which hides their latency and reads each weight once for six uses.
 */
export class FloatTile {
  readonly totals: readonly Vec[];
  readonly totalScale = 1;
  readonly #t: TileCode;
  readonly #layout: FloatLayout;
  readonly #registers: TileRegisters;
  readonly #C: number;
  readonly #weights: readonly Vec[];
  readonly #activation: Vec;

  constructor(t: TileCode, layout: FloatLayout, C: number) {
    this.#t = t;
    this.#layout = layout;
    this.#registers = t.registers;
    this.#C = C;
    this.#activation = t.take();
    this.#weights = t.takeAll(PARTS);
    this.totals = t.takeAll(PARTS * C);
  }

  get temporaries(): readonly Vec[] {
    return [this.#activation, ...this.#weights];
  }

  emitConstants(): void {}

  /** `length`: memory that holds K. */
  emit(length: Mem): void {
    const { a } = this.#t;
    const { strip, block, count } = this.#registers;
    a.mov(block, strip);
    this.#t.startRows();
    for (const total of this.totals) this.#t.zero(total);
    const [rest, done] = [a.label('rest'), a.label('elements_done')];
    a.mov(count, length);
    a.sub(count, UNROLLED);
    a.jl(rest);
    a.align(32);
    const loop = a.here('elements');
    this.#t.prefetchNext();
    for (let k = 0; k < UNROLLED; k++) {
      this.#t.prefetchAhead(k, UNROLLED, floatBlockBytes(this.#layout));
      this.#addElement(k);
    }
    this.#advance(UNROLLED);
    a.sub(count, UNROLLED);
    a.jge(loop);
    a.bind(rest);
    a.add(count, UNROLLED);
    a.je(done);
    const single = a.here('element');
    this.#addElement(0);
    this.#advance(1);
    a.sub(count, 1);
    a.jne(single);
    a.bind(done);
  }

  #advance(numElements: number): void {
    this.#t.a.add(this.#registers.block, numElements * STRIP_ROWS * this.#layout.elementBytes);
    this.#t.advanceRows(numElements * FLOAT_BYTES);
  }

  /** Element k from the current one on. */
  #addElement(k: number): void {
    const { a } = this.#t;
    const { format, elementBytes } = this.#layout;
    for (const [part, weight] of this.#weights.entries()) {
      const place = this.#t.lanePlace(this.#registers.block, k * STRIP_ROWS * elementBytes, part, elementBytes);
      if (format === 'F32') a.vmovups(weight, place);
      else if (format === 'F16') a.vcvtph2ps(weight, place);
      else {
        a.vpmovzxwd(weight, place);
        a.vpslld(weight, weight, BF16_SHIFT);
      }
    }
    for (let c = 0; c < this.#C; c++) {
      a.vbroadcastss(this.#activation, this.#t.rowPlace(c, k * FLOAT_BYTES));
      for (const [part, weight] of this.#weights.entries()) {
        a.vfmadd231ps(this.totals[PARTS * c + part]!, weight, this.#activation);
      }
    }
  }
}
