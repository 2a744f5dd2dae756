// Owns rotary position embedding of queries and keys, in place, with the norm of each head before it.
// Legend: M rows, H heads, G key/value heads, K head dim, R elements of a head that rotate.
import { invariant } from '../../../../common/errors.ts';
import type { Assembler } from '../../asm/assembler.ts';
import { mem, offset } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, rax, resized, type Vec, ymm } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { Lanes, NUM_LANES } from '../lanes.ts';
import { opMem } from '../op.ts';
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
const CACHE_LINE = 64;
/** imm8 of vpermilps: elements 1, 0, 3, 2. */
const SWAP_PAIRS = 0b10_11_00_01;

/** What keeps this rope from being emitted; null: nothing. */
export function ropeObstacle({ headDim, rotaryDim }: RopeOptions): string | null {
  if (headDim % NUM_LANES !== 0 || headDim > 256) return `heads of ${headDim} are not multiples of 16 up to 256`;
  const isRotary = rotaryDim > 0 && rotaryDim <= headDim && rotaryDim % (2 * MIN_VECTOR) === 0;
  return isRotary ? null : `${rotaryDim} rotating elements are no multiple of 16 up to ${headDim}`;
}

interface Head {
  readonly options: RopeOptions;
  readonly x: Gpr;
  /** Of the row: cosines and sines, or both twice each. */
  readonly table: Gpr;
  /** Weights of the norm. */
  readonly norm: Gpr;
}

/** A pair (x, y) becomes (x cos - y sin, y cos + x sin), the products with the sine rounded, the others not. */
export function emitRope(options: RopeOptions): MachineCode {
  const { isa, numHeads, numKvHeads, headDim: K, rotaryDim, pairs, headNormEps } = options;
  const obstacle = ropeObstacle(options);
  invariant(obstacle === null, obstacle ?? '');
  const { field } = ropeOp;
  const rowBytes = ropeRowBytes(rotaryDim);
  return emitRowOp(
    `rope_${pairs}_${numHeads}_${numKvHeads}x${K}${headNormEps === null ? '' : '_normed'}_${isa}`,
    cutRows((numHeads + numKvHeads) * K),
    // Cosines and sines of a row, each twice: as vectors of adjacent pairs want them.
    ({ f }) => (pairs === 'adjacent' ? f.local(2 * rowBytes + CACHE_LINE) : null),
    (o, scratch, row) => {
      const { a, f, op } = o;
      const [x, count, table, norm] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
      a.mov(table, opMem(op, field.positions));
      a.movsxd(table, mem(table, 0, { index: row, scale: 4 }));
      a.imul3(table, table, rowBytes);
      a.add(table, opMem(op, field.table));
      if (scratch) {
        a.lea(x, offset(scratch, CACHE_LINE - 1));
        a.and(x, -CACHE_LINE);
        for (let at = 0; at < rotaryDim; at += MIN_VECTOR / 2) {
          a.vpmovzxdq(ymm(0), mem(table, 4 * at));
          a.vmovsldup(ymm(0), ymm(0));
          a.vmovups(mem(x, 8 * at), ymm(0));
        }
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
        emitHead(a, { options, x, table, norm });
        a.add(x, 4 * K);
        a.sub(count, 1);
        a.jne(loop);
      }
      f.release(x, count, table, norm);
    },
  );
}

function emitHead(a: Assembler, { options, x, table, norm }: Head): void {
  const { isa, headDim, rotaryDim, pairs, headNormEps: eps } = options;
  const lanes = new Lanes(a, isa);
  const half = rotaryDim / 2;
  const isWide =
    isa === 'avx512' && [pairs === 'halves' ? half : rotaryDim, headDim].every((count) => count % NUM_LANES === 0);
  const vectorFloats = isWide ? NUM_LANES : MIN_VECTOR;
  const register = () => resized(lanes.takeSplat()[0] as Vec, isWide ? 512 : 256);
  const [factor, v, w, vSine, wSine, cosine] = Array.from({ length: 6 }, register) as [Vec, Vec, Vec, Vec, Vec, Vec];
  const head = (at: number) => mem(x, 4 * at);
  const load = (dst: Vec, at: number) => {
    a.vmovups(dst, head(at));
    if (eps === null) return;
    a.vmulps(dst, dst, mem(norm, 4 * at));
    a.vmulps(dst, dst, factor);
  };
  if (eps !== null) {
    const value = lanes.take();
    const squares = emitRowSum(a, lanes, headDim, { pointer: x, count: rax }, (sum, place) => {
      lanes.load(value, place);
      lanes.op('vfmadd231ps', sum, value, value);
    });
    emitInverseRms(a, squares, headDim, eps, value[0] as Vec);
    a.vbroadcastss(factor, squares);
  }
  if (pairs === 'halves') {
    for (let at = 0; at < half; at += vectorFloats) {
      a.vmovups(cosine, mem(table, 4 * at));
      load(v, at);
      load(w, half + at);
      a.vmulps(vSine, v, mem(table, 4 * (half + at)));
      a.vmulps(wSine, w, mem(table, 4 * (half + at)));
      a.vfmsub213ps(v, cosine, wSine);
      a.vfmadd213ps(w, cosine, vSine);
      a.vmovups(head(at), v);
      a.vmovups(head(half + at), w);
    }
  } else {
    for (let at = 0; at < rotaryDim; at += vectorFloats) {
      load(v, at);
      a.vpermilps(w, v, SWAP_PAIRS);
      a.vmulps(w, w, mem(table, 4 * (rotaryDim + at)));
      a.vmovups(cosine, mem(table, 4 * at));
      a.vfmaddsub213ps(v, cosine, w);
      a.vmovups(head(at), v);
    }
  }
  for (let at = rotaryDim; at < headDim && eps !== null; at += vectorFloats) {
    load(v, at);
    a.vmovups(head(at), v);
  }
}
