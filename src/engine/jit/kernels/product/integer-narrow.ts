// Owns sums of products of integers with AVX2.
import { type Mem, ripMem } from '../../asm/operands.ts';
import type { Vec } from '../../asm/registers.ts';
import { SUM_FACTOR } from './abi.ts';
import { type IntegerCode, type Multiplier, NIBBLE_BITS } from './integer-code.ts';
import { furtherBitsPlace } from './layout.ts';
import { PARTS } from './registers.ts';

/**
 * vpmaddubsw multiplies u8 by s8 into 16-bit sums of two, which saturate. Nibbles are small enough to add up eight such
 * sums; bytes are multiplied as |w| by sign(w) a, exact since |w| <= 128 and |a| <= 127.
 */
export class NarrowMultiplier implements Multiplier {
  readonly totalScale: number;
  readonly partsTogether = [[0], [1]];
  readonly #i: IntegerCode;
  /** Sums of a group are 16-bit until it ends. */
  readonly #isShort: boolean;

  constructor(i: IntegerCode) {
    this.#i = i;
    this.totalScale = i.layout.quantScale;
    this.#isShort = i.layout.bits === NIBBLE_BITS && !i.layout.table;
  }

  emitConstants(): void {}

  /** The first products are moved there. */
  startSums(): void {}

  multiply(quad: number, isFirst: boolean): void {
    if (this.#isShort) this.#multiplyNibbles(quad, isFirst);
    else this.#multiplyBytes(quad, isFirst);
  }

  #loadNibbles(dst: Vec, quad: number, part: number): void {
    const { a } = this.#i.t;
    a.vmovups(dst, this.#i.nibbles(quad, part));
    if (quad % 2 === 1) a.vpsrlw(dst, dst, NIBBLE_BITS);
    a.vpand(dst, dst, this.#i.t.bytes(0x0f));
  }

  /** Weights as signed bytes, or unsigned below 128. */
  #loadBytes(dst: Vec, quad: number, part: number, temporary: Vec): void {
    const { a } = this.#i.t;
    const { bits, centre, table } = this.#i.layout;
    if (bits === 8) a.vmovups(dst, this.#i.step(quad, part));
    else this.#loadNibbles(dst, quad, part);
    if (bits === 5 || bits === 6) {
      const more = bits - NIBBLE_BITS;
      const { step, bit } = furtherBitsPlace(bits, quad);
      a.vmovups(temporary, this.#i.step(step, part));
      a.vpsrlw(temporary, temporary, bit);
      a.vpand(temporary, temporary, this.#i.t.bytes(2 ** more - 1));
      if (centre > 0) a.vpsllw(dst, dst, more);
      else a.vpsllw(temporary, temporary, NIBBLE_BITS);
      a.vpor(dst, dst, temporary);
    }
    if (centre > 0) a.vpsubb(dst, dst, this.#i.t.bytes(centre));
    if (!table) return;
    a.vmovups(temporary, this.#i.t.byteTable(table));
    a.vpshufb(dst, temporary, dst);
  }

  #multiplyNibbles(quad: number, isFirst: boolean): void {
    const { t, weights, sums, C, activation } = this.#i;
    const [low, high, product] = weights as [Vec, Vec, Vec];
    const parts = [low, high];
    for (const [part, weight] of parts.entries()) this.#loadNibbles(weight, quad, part);
    for (let c = 0; c < C; c++) {
      for (const [limb, ofLimb] of sums.entries()) {
        t.a.vpbroadcastd(activation, this.#i.quadOf(c, limb, quad));
        for (const [part, weight] of parts.entries()) {
          const sum = ofLimb[PARTS * c + part]!;
          t.a.vpmaddubsw(isFirst ? sum : product, weight, activation);
          if (!isFirst) t.a.vpaddw(sum, sum, product);
        }
      }
    }
  }

  #multiplyBytes(quad: number, isFirst: boolean): void {
    const { t, weights, sums, C, isSigned } = this.#i;
    const [weight, magnitude, product] = weights as [Vec, Vec, Vec];
    for (let part = 0; part < PARTS; part++) {
      this.#loadBytes(weight, quad, part, magnitude);
      if (isSigned) t.a.vpabsb(magnitude, weight);
      for (let c = 0; c < C; c++) {
        for (const [limb, ofLimb] of sums.entries()) {
          const sum = ofLimb[PARTS * c + part]!;
          t.a.vpbroadcastd(product, this.#i.quadOf(c, limb, quad));
          if (isSigned) t.a.vpsignb(product, product, weight);
          t.a.vpmaddubsw(product, isSigned ? magnitude : weight, product);
          t.a.vpmaddwd(isFirst ? sum : product, product, this.#ones());
          if (!isFirst) t.a.vpaddd(sum, sum, product);
        }
      }
    }
  }

  finishSum(c: number, g: number, part: number): Vec {
    const { t, layout, sums, weights, activation, isSigned } = this.#i;
    const temporary = weights[PARTS]!;
    if (!this.#isShort) return this.#i.joinLimbs(c, part, temporary);
    for (const ofLimb of sums) {
      const limb = ofLimb[PARTS * c + part]!;
      t.a.vpmaddwd(limb, limb, this.#ones());
    }
    const sum = this.#i.joinLimbs(c, part, temporary);
    if (isSigned) {
      this.#i.groupSum(activation, c, g, temporary);
      t.a.vpsrad(activation, activation, Math.log2(-SUM_FACTOR / layout.centre));
      t.a.vpaddd(sum, sum, activation);
    }
    return sum;
  }

  #ones(): Mem {
    return ripMem(this.#i.t.a.constant(new Uint32Array(8).fill(0x0001_0001)));
  }
}
