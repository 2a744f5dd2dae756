// Owns sums of products of integers with AVX-512 VNNI.
import { invariant } from '../../../../common/errors.ts';
import type { Mem } from '../../asm/operands.ts';
import type { Vec } from '../../asm/registers.ts';
import { SUM_FACTOR } from './abi.ts';
import { type IntegerCode, type Multiplier, NIBBLE_BITS } from './integer-code.ts';
import { furtherBitsPlace } from './layout.ts';
import { PARTS } from './registers.ts';

/** Truth table of vpternlogd: a | (b & c). */
const A_OR_B_AND_C = 0xf8;

/**
 * vpdpbusd multiplies u8 by s8. Weights around a centre are stored with it added, and shifted up until it is 128; then
 * sums start at the record's -128 Σ a. Of a block's operations on the two multiplying ports (16 products, 2 times scale
 * of x, 2 times scale of w) the products are 80 %.
 */
export class WideMultiplier implements Multiplier {
  readonly totalScale: number;
  readonly partsTogether = [[0, 1]];
  readonly #i: IntegerCode;
  readonly #shift: number;
  readonly #mask: Vec | null;
  /** Of what is added to nibbles. */
  readonly #furtherMask: Vec | null;
  readonly #table: Vec | null;

  constructor(i: IntegerCode) {
    const { bits, centre, quantScale, table } = i.layout;
    this.#i = i;
    this.#shift = centre > 0 ? 8 - bits : 0;
    this.totalScale = quantScale * 2 ** this.#shift;
    this.#mask = bits < 8 ? i.t.take() : null;
    this.#furtherMask = bits === 5 || bits === 6 ? i.t.take() : null;
    this.#table = table ? i.t.take() : null;
  }

  emitConstants(): void {
    const { t, layout } = this.#i;
    if (this.#mask) t.a.vmovups(this.#mask, t.bytes(this.#shift > 0 ? 0xf0 : 0x0f));
    const furtherMask = (2 ** (layout.bits - NIBBLE_BITS) - 1) << this.#furtherBit();
    if (this.#furtherMask) t.a.vmovups(this.#furtherMask, t.bytes(furtherMask));
    if (this.#table && layout.table) {
      t.a.vmovups(this.#table, t.byteTable(layout.table.map((value) => value - SUM_FACTOR)));
    }
  }

  startSums(g: number): void {
    const { t, sums, C, isSigned } = this.#i;
    for (const [limb, ofLimb] of sums.entries()) {
      for (let c = 0; c < C; c++) {
        const [first, second] = ofLimb.slice(PARTS * c) as [Vec, Vec];
        if (isSigned && limb === sums.length - 1) {
          this.#i.groupSum(first, c, g, second);
          t.a.vmovaps(second, first);
        } else {
          t.zero(first);
          t.zero(second);
        }
      }
    }
  }

  multiply(quad: number): void {
    const { t, layout, weights, sums, C, activation } = this.#i;
    const { bits } = layout;
    const [even, odd] = [weights.slice(0, PARTS), weights.slice(PARTS)];
    for (const [part, weight] of even.entries()) {
      if (bits === 8) t.a.vmovups(weight, this.#i.step(quad, part));
      else if (bits !== NIBBLE_BITS) this.#joinBits(bits, quad, part, weight, odd[part]!);
      else if (quad % 2 === 0) this.#splitNibbles(weight, odd[part]!, this.#i.nibbles(quad, part));
    }
    const used = bits === NIBBLE_BITS && quad % 2 === 1 ? odd : even;
    for (let c = 0; c < C; c++) {
      for (const [limb, ofLimb] of sums.entries()) {
        t.a.vpbroadcastd(activation, this.#i.quadOf(c, limb, quad));
        for (const [part, weight] of used.entries()) t.a.vpdpbusd(ofLimb[PARTS * c + part]!, weight, activation);
      }
    }
  }

  #splitNibbles(low: Vec, high: Vec, place: Mem): void {
    const { a } = this.#i.t;
    invariant(this.#mask, 'nibbles have a mask');
    a.vmovups(high, place);
    if (this.#shift > 0) {
      a.vpsllw(low, high, NIBBLE_BITS);
      a.vpandd(low, low, this.#mask);
    } else {
      a.vpandd(low, high, this.#mask);
      a.vpsrlw(high, high, NIBBLE_BITS);
    }
    a.vpandd(high, high, this.#mask);
    if (!this.#table) return;
    a.vpshufb(low, this.#table, low);
    a.vpshufb(high, this.#table, high);
  }

  /** Weights of 5 and 6 bits. */
  #joinBits(bits: 5 | 6, quad: number, part: number, weight: Vec, further: Vec): void {
    const { a } = this.#i.t;
    invariant(this.#mask && this.#furtherMask, 'nibbles and further bits have masks');
    const nibbles = this.#i.nibbles(quad, part);
    const isUpper = quad % 2 === 1;
    if (isUpper === this.#shift > 0) a.vpandd(weight, this.#mask, nibbles);
    else {
      if (isUpper) a.vpsrlw(weight, nibbles, NIBBLE_BITS);
      else a.vpsllw(weight, nibbles, NIBBLE_BITS);
      a.vpandd(weight, weight, this.#mask);
    }
    const { step, bit } = furtherBitsPlace(bits, quad);
    const place = this.#i.step(step, part);
    const up = this.#furtherBit() - bit;
    if (up >= 0) a.vpsllw(further, place, up);
    else a.vpsrlw(further, place, -up);
    a.vpternlogd(weight, further, this.#furtherMask, A_OR_B_AND_C);
  }

  /** The lowest bit of what is added to a nibble, which stands in the upper half of the byte if shifted. */
  #furtherBit(): number {
    return this.#shift > 0 ? this.#shift : NIBBLE_BITS;
  }

  finishSum(c: number, _g: number, part: number): Vec {
    return this.#i.joinLimbs(c, part, this.#i.activation);
  }
}
