// Owns rotary position embedding of queries and keys, in place, with the norm of each head before it.
// Legend: M rows, H heads, G key/value heads, K head dim, R elements of a head that rotate.
import { invariant } from '../../../../common/errors.ts';
import type { Assembler } from '../../asm/assembler.ts';
import { type Mem, mem, offset, sized } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, rax, resized, type Vec } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { Lanes, NUM_LANES } from '../lanes.ts';
import { type OpFrame, opMem } from '../op.ts';
import { ropeRowBytes } from './rope-table.ts';
import { cutRows, emitRowOp, emitRowPointer, opLayout } from './row-op.ts';
import { emitInverseRms, emitRowSum } from './row-sum.ts';

export interface RopeOptions {
  readonly isa: Isa;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** The first elements of a head; the others stay. */
  readonly rotaryDim: number;
  /** `adjacent`: pairs (2i, 2i + 1); `halves`: pairs (i, i + R / 2). */
  readonly pairs: 'adjacent' | 'halves';
  /** RMS norm of each head of q and k, with weights of their own; null: none. */
  readonly headNormEps: number | null;
}

/**
 * q F32 [M,H*K], k F32 [M,G*K], positions I32 [M], table as `rope-table.ts` lays it out, qNorm and kNorm F32 [K] (0
 * without norms).
 */
export const ropeOp = opLayout('q', 'qRowBytes', 'k', 'kRowBytes', 'positions', 'table', 'qNorm', 'kNorm');

/** Vectors are of 8 floats where pairs of 16 are not to be had. */
const MIN_VECTOR = 8;

/** What keeps this rope from being emitted; null: nothing. */
export function ropeObstacle({ headDim, rotaryDim }: RopeOptions): string | null {
  if (headDim % NUM_LANES !== 0 || headDim > 256) return `heads of ${headDim} are not multiples of 16 up to 256`;
  const isRotary = rotaryDim > 0 && rotaryDim <= headDim && rotaryDim % (2 * MIN_VECTOR) === 0;
  return isRotary ? null : `${rotaryDim} rotating elements are no multiple of 16 up to ${headDim}`;
}

/** A pair (x, y) becomes (x cos - y sin, y cos + x sin), the products with the sine rounded, the others not. */
export function emitRope(options: RopeOptions): MachineCode {
  const { isa, numHeads, numKvHeads, headDim: K, rotaryDim, pairs, headNormEps } = options;
  const obstacle = ropeObstacle(options);
  invariant(obstacle === null, obstacle ?? '');
  const { field } = ropeOp;
  const rowBytes = ropeRowBytes(rotaryDim);
  return emitRowOp(
    `rope_${pairs}_${K}_${isa}`,
    cutRows((numHeads + numKvHeads) * K),
    // Cosines and sines of a row, each twice: as vectors of adjacent pairs want them.
    ({ f }) => ({ scratch: pairs === 'adjacent' ? f.local(2 * rowBytes + 64) : null, inverse: sized(f.local(), 4) }),
    (o, { scratch, inverse }, row) => {
      const { a, f, op } = o;
      const [x, count, table, norm] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
      a.mov(table, opMem(op, field.positions));
      a.movsxd(table, mem(table, 0, { index: row, scale: 4 }));
      a.imul3(table, table, rowBytes);
      a.add(table, opMem(op, field.table));
      const head = new HeadEmitter(o, options, { x, norm, table, inverse });
      if (scratch) {
        a.lea(x, offset(scratch, 63));
        a.and(x, -64);
        head.emitSpread(x);
        a.mov(table, x);
      }
      for (const { base, distance, heads, weights } of [
        { base: field.q, distance: field.qRowBytes, heads: numHeads, weights: field.qNorm },
        { base: field.k, distance: field.kRowBytes, heads: numKvHeads, weights: field.kNorm },
      ]) {
        emitRowPointer(o, x, row, base, distance);
        if (headNormEps !== null) a.mov(norm, opMem(op, weights));
        a.mov(count, heads);
        const loop = a.here('head');
        head.emit();
        a.add(x, 4 * K);
        a.sub(count, 1);
        a.jne(loop);
      }
      f.release(x, count, table, norm);
    },
  );
}

interface HeadRegisters {
  readonly x: Gpr;
  readonly norm: Gpr;
  /** Of the row: cosines and sines, or both twice each. */
  readonly table: Gpr;
  readonly inverse: Mem;
}

class HeadEmitter {
  readonly #a: Assembler;
  readonly #lanes: Lanes;
  readonly #options: RopeOptions;
  readonly #registers: HeadRegisters;
  readonly #vectorFloats: 8 | 16;
  readonly #factor: Vec;
  readonly #free: readonly Vec[];

  constructor({ a }: OpFrame, options: RopeOptions, registers: HeadRegisters) {
    const { isa, rotaryDim, headDim, pairs } = options;
    this.#a = a;
    this.#lanes = new Lanes(a, isa);
    this.#options = options;
    this.#registers = registers;
    const unit = pairs === 'halves' ? rotaryDim / 2 : rotaryDim;
    const isWide = isa === 'avx512' && [unit, headDim - rotaryDim].every((count) => count % NUM_LANES === 0);
    this.#vectorFloats = isWide ? 16 : MIN_VECTOR;
    const register = () => resized(this.#lanes.takeSplat()[0] as Vec, isWide ? 512 : 256);
    this.#factor = register();
    this.#free = Array.from({ length: 5 }, register);
  }

  /** Writes cosines and sines of the row to `place`, each twice. */
  emitSpread(place: Gpr): void {
    const a = this.#a;
    const [x] = this.#free as [Vec];
    for (let at = 0; at < this.#options.rotaryDim; at += this.#vectorFloats / 2) {
      a.vpmovzxdq(x, mem(this.#registers.table, 4 * at));
      a.vmovsldup(x, x);
      a.vmovups(mem(place, 8 * at), x);
    }
  }

  /** The head at x. */
  emit(): void {
    const { headDim, rotaryDim, pairs, headNormEps } = this.#options;
    if (headNormEps !== null) this.#emitFactor(headNormEps);
    if (pairs === 'halves') this.#emitHalves(rotaryDim / 2);
    else this.#emitAdjacent(rotaryDim);
    if (headNormEps === null) return;
    const [value] = this.#free as [Vec];
    for (let at = rotaryDim; at < headDim; at += this.#vectorFloats) {
      this.#load(value, at);
      this.#a.vmovups(this.#x(at), value);
    }
  }

  #x = (at: number): Mem => mem(this.#registers.x, 4 * at);

  /** 1 / rms of the head. */
  #emitFactor(eps: number): void {
    const a = this.#a;
    const lanes = this.#lanes;
    const { x, inverse } = this.#registers;
    const value = lanes.take();
    const cursor = { pointer: x, count: rax };
    const squares = emitRowSum(a, lanes, this.#options.headDim, cursor, (sum, place) => {
      lanes.load(value, place);
      lanes.op('vfmadd231ps', sum, value, value);
    });
    emitInverseRms(a, squares, this.#options.headDim, eps, value[0] as Vec);
    a.vmovss(inverse, squares);
    a.vbroadcastss(this.#factor, inverse);
    lanes.release(value);
  }

  #load(dst: Vec, at: number): void {
    const a = this.#a;
    a.vmovups(dst, this.#x(at));
    if (this.#options.headNormEps === null) return;
    a.vmulps(dst, dst, mem(this.#registers.norm, 4 * at));
    a.vmulps(dst, dst, this.#factor);
  }

  #emitHalves(half: number): void {
    const a = this.#a;
    const [x, y, xSine, ySine, cosine] = this.#free as [Vec, Vec, Vec, Vec, Vec];
    for (let at = 0; at < half; at += this.#vectorFloats) {
      const sine = mem(this.#registers.table, 4 * (half + at));
      a.vmovups(cosine, mem(this.#registers.table, 4 * at));
      this.#load(x, at);
      this.#load(y, half + at);
      a.vmulps(xSine, x, sine);
      a.vmulps(ySine, y, sine);
      a.vfmsub213ps(x, cosine, ySine);
      a.vfmadd213ps(y, cosine, xSine);
      a.vmovups(this.#x(at), x);
      a.vmovups(this.#x(half + at), y);
    }
  }

  #emitAdjacent(rotaryDim: number): void {
    const a = this.#a;
    const [x, swapped, cosine] = this.#free as [Vec, Vec, Vec];
    const SWAP_PAIRS = 0b10_11_00_01;
    for (let at = 0; at < rotaryDim; at += this.#vectorFloats) {
      this.#load(x, at);
      a.vpermilps(swapped, x, SWAP_PAIRS);
      a.vmulps(swapped, swapped, mem(this.#registers.table, 4 * (rotaryDim + at)));
      a.vmovups(cosine, mem(this.#registers.table, 4 * at));
      a.vfmaddsub213ps(x, cosine, swapped);
      a.vmovups(this.#x(at), x);
    }
  }
}
