// Owns the vector vocabulary of the sampler: one description, emitted for AVX2 (8 lanes) or AVX-512 (16 lanes).
import type { Assembler } from '../asm/assembler.ts';
import { type Mem, ripMem, type VecOrMem } from '../asm/operands.ts';
import { type Gpr, k, masked, r32, type Vec, xmm, ymm, zmm } from '../asm/registers.ts';
import type { Isa } from '../cpu-features.ts';
import {
  exp2Polynomial,
  ln2High,
  ln2Low,
  logPolynomial,
  maxFloat,
  minExponent,
  roundingMagic,
  sqrtHalfBits,
} from './sampler-math.ts';

/** Predicates of vcmpps; all are false on NaN. */
export const compare = { eq: 0, le: 2, ge: 13, gt: 14 } as const;

/** Exponent, square, sum and product. */
type LnTemps = readonly [Vec, Vec, Vec, Vec];

export class Simd {
  readonly a: Assembler;
  readonly lanes: 8 | 16;
  /** Bytes of one vector. */
  readonly bytes: 32 | 64;
  /** Vectors that make up a chunk of 16 elements. */
  readonly parts: readonly number[];
  readonly #isWide: boolean;

  constructor(a: Assembler, isa: Isa) {
    this.a = a;
    this.#isWide = isa === 'avx512';
    this.lanes = this.#isWide ? 16 : 8;
    this.bytes = this.#isWide ? 64 : 32;
    this.parts = this.#isWide ? [0] : [0, 1];
  }

  /** Vector register `id` (0 to 15) in this width. */
  v(id: number): Vec {
    return this.#isWide ? zmm(id) : ymm(id);
  }

  /** A float in every lane. */
  float(value: number): Mem {
    return ripMem(this.a.constant(new Float32Array(this.lanes).fill(value)));
  }

  /** A 32-bit integer in every lane. */
  int(value: number): Mem {
    return ripMem(this.a.constant(new Int32Array(this.lanes).fill(value)));
  }

  /** 0, 1, 2, … */
  iota(): Mem {
    return ripMem(this.a.constant(Int32Array.from({ length: this.lanes }, (_, lane) => lane)));
  }

  zero(dst: Vec): void {
    if (this.#isWide) this.a.vpxord(dst, dst, dst);
    else this.a.vpxor(dst, dst, dst);
  }

  xor(dst: Vec, x: Vec, y: VecOrMem): void {
    if (this.#isWide) this.a.vpxord(dst, x, y);
    else this.a.vpxor(dst, x, y);
  }

  /** dst: one bit per lane where `x predicate y`. Clobbers `temp`. */
  bits(dst: Gpr, predicate: number, x: Vec, y: VecOrMem, temp: Vec): void {
    if (this.#isWide) {
      this.a.vcmppsMask(k(1), x, y, predicate);
      this.a.kmovw(r32(dst), k(1));
    } else {
      this.a.vcmpps(temp, x, y, predicate);
      this.a.vmovmskps(r32(dst), temp);
    }
  }

  /** dst: bits where `x ≥ y` as floats and not `i > j` as signed integers. Clobbers both temps. */
  bitsOfBoth(dst: Gpr, [x, y]: readonly [Vec, Vec], [i, j]: readonly [Vec, Vec], temps: readonly [Vec, Vec]): void {
    if (this.#isWide) {
      const lessOrEqual = 2;
      this.a.vcmppsMask(k(1), x, y, compare.ge);
      this.a.vpcmpd(k(2), i, j, lessOrEqual);
      this.a.kandw(k(1), k(1), k(2));
      this.a.kmovw(r32(dst), k(1));
    } else {
      this.a.vcmpps(temps[0], x, y, compare.ge);
      this.a.vpcmpgtd(temps[1], i, j);
      this.a.vandnps(temps[0], temps[1], temps[0]);
      this.a.vmovmskps(r32(dst), temps[0]);
    }
  }

  /** dst = `x predicate y` ? value : 0. Clobbers `temp`. */
  keepWhere(dst: Vec, value: Vec, predicate: number, x: Vec, y: VecOrMem, temp: Vec): void {
    if (this.#isWide) {
      this.a.vcmppsMask(k(1), x, y, predicate);
      this.a.vmovaps(masked(dst, k(1), true), value);
    } else {
      this.a.vcmpps(temp, x, y, predicate);
      this.a.vandps(dst, temp, value);
    }
  }

  /** Each `dst` takes its `src` where `x predicate y`. Clobbers `temp`. */
  replaceWhere(pairs: readonly (readonly [dst: Vec, src: Vec])[], predicate: number, x: Vec, y: Vec, temp: Vec): void {
    if (this.#isWide) {
      this.a.vcmppsMask(k(1), x, y, predicate);
      for (const [dst, src] of pairs) this.a.vmovaps(masked(dst, k(1)), src);
    } else {
      this.a.vcmpps(temp, x, y, predicate);
      for (const [dst, src] of pairs) this.a.vblendvps(dst, dst, src, temp);
    }
  }

  /** x becomes finite or -Infinity: NaN → -Infinity (the second operand wins), +Infinity → the largest float. */
  sane(x: Vec): void {
    this.a.vmaxps(x, x, this.float(-Infinity));
    this.a.vminps(x, x, this.float(maxFloat));
  }

  /** Leaves `combine` over all lanes in lane 0 of dst, halves onto halves. Clobbers `temp`. */
  fold(dst: Vec, temp: Vec, combine: (dst: Vec, x: Vec, y: Vec) => void): void {
    const { a } = this;
    const [low, high] = [xmm(dst.id), xmm(temp.id)];
    if (this.#isWide) {
      a.vextractf64x4(ymm(temp.id), dst, 1);
      combine(ymm(dst.id), ymm(dst.id), ymm(temp.id));
    }
    a.vextractf128(high, ymm(dst.id), 1);
    combine(low, low, high);
    a.vmovhlps(high, low, low);
    combine(low, low, high);
    a.vmovshdup(high, low);
    combine(low, low, high);
  }

  /** Lane 0 of sums[0]: the sum over a chunk's 16 lanes in the order of the twin's `foldLanes`. Clobbers `temp`. */
  foldSum(sums: readonly Vec[], temp: Vec): void {
    const [first, second] = sums as readonly [Vec, Vec?];
    if (second) this.a.vaddps(first, first, second);
    this.fold(first, temp, (dst, x, y) => this.a.vaddps(dst, x, y));
  }

  foldMax(x: Vec, temp: Vec): void {
    this.fold(x, temp, (dst, p, q) => this.a.vmaxps(dst, p, q));
  }

  /** y = exp(t) as the twin's exp32; `t` becomes y. Clobbers three temps. */
  exp(t: Vec, [z, f, p]: readonly [Vec, Vec, Vec]): void {
    const { a } = this;
    const least = this.float(minExponent);
    a.vmulps(t, t, this.float(Math.LOG2E));
    a.vmaxps(p, t, least);
    a.vaddps(z, p, this.float(roundingMagic));
    a.vsubps(f, z, this.float(roundingMagic));
    a.vsubps(f, p, f);
    this.#horner(p, f, exp2Polynomial);
    a.vpslld(z, z, 23);
    a.vpaddd(p, p, z);
    this.keepWhere(t, p, compare.ge, t, least, f);
  }

  /** x = ln(x) as the twin's ln32. Clobbers four temps. */
  ln(x: Vec, temps: LnTemps): void {
    this.#splitMantissa(x, temps[0], temps[1]);
    this.#lnOfParts(x, temps);
  }

  /** v = ln(1 - v) as the twin's: where 1 - v has exponent 0, v itself is the fraction. Clobbers five temps. */
  ln1m(v: Vec, temps: LnTemps, fraction: Vec): void {
    const { a } = this;
    const [exponent, t, zero] = temps;
    a.vmovups(fraction, this.float(1));
    a.vsubps(fraction, fraction, v);
    this.#splitMantissa(fraction, exponent, t);
    this.xor(v, v, this.int(0x8000_0000 | 0));
    a.vcvtdq2ps(t, exponent);
    this.zero(zero);
    this.replaceWhere([[fraction, v]], compare.eq, t, zero, t);
    a.vmovaps(v, fraction);
    this.#lnOfParts(v, temps);
  }

  /** x = 2^exponent (1 + f) becomes f. Clobbers `temp`. */
  #splitMantissa(x: Vec, exponent: Vec, temp: Vec): void {
    const { a } = this;
    a.vpsubd(exponent, x, this.int(sqrtHalfBits));
    a.vpsrad(exponent, exponent, 23);
    a.vpslld(temp, exponent, 23);
    a.vpsubd(x, x, temp);
    a.vsubps(x, x, this.float(1));
  }

  /** f = ln(2^exponent (1 + f)). */
  #lnOfParts(f: Vec, [exponent, square, y, product]: LnTemps): void {
    const { a } = this;
    a.vmulps(square, f, f);
    this.#horner(y, f, logPolynomial);
    a.vmulps(y, y, f);
    a.vmulps(y, y, square);
    a.vcvtdq2ps(exponent, exponent);
    a.vmulps(product, exponent, this.float(ln2Low));
    a.vaddps(y, y, product);
    a.vmulps(square, square, this.float(0.5));
    a.vsubps(y, y, square);
    a.vaddps(f, f, y);
    a.vmulps(product, exponent, this.float(ln2High));
    a.vaddps(f, f, product);
  }

  /** p = value of the polynomial at x, highest power first. */
  #horner(p: Vec, x: Vec, [first, ...rest]: readonly number[]): void {
    const { a } = this;
    a.vmovups(p, this.float(first ?? 0));
    for (const coefficient of rest) {
      a.vmulps(p, p, x);
      a.vaddps(p, p, this.float(coefficient));
    }
  }
}
