// Owns the inner loop of a product with integer weights: one strip of W by a tile of rows of x.
// Legend: C rows of x, limbs: signed bytes per activation (2 where they are fine), g a group of elements that share a scale.
import { invariant } from '../../../../common/errors.ts';
import { type Mem, ripMem } from '../../asm/operands.ts';
import { rax, type Vec } from '../../asm/registers.ts';
import { BLOCK, fineRecord, plainRecord, type RecordLayout, SUM_FACTOR } from './abi.ts';
import {
  furtherBitsPlace,
  headerField,
  type IntegerLayout,
  nibbleStep,
  STEP_BYTES,
  STRIP_ROWS,
  SUPER_BLOCKS,
} from './layout.ts';
import { PARTS, type TileCode, type TileRegisters } from './registers.ts';

const QUAD = 4;
const NIBBLE_BITS = 4;
/** Truth table of vpternlogd: a | (b & c). */
const A_OR_B_AND_C = 0xf8;
/** Byte offsets of limbs in records. */
const limbOffset = (limb: number): number => limb * BLOCK;

/**
 * totals[2 c + part] = Σ over groups, in order: total = fma(F32(Σ q·a) * scale of x, scale of w, total), and with minima
 * total = fma(minimum of w, scaled sum of x, total). Sums in a group are exact integers, so they may be taken in any
 * order; of fine activations they are 255 Σ q·high + Σ q·low. Totals are `totalScale` times too large, a power of two.
 *
 * AVX-512: vpdpbusd multiplies u8 by s8. Weights around a centre are stored with 128 added (nibbles: 8, and shifted into
 * the upper half of a byte), and sums start at the record's -128 Σ a. Of a block's operations on the two multiplying
 * ports (16 products, 2 times scale of x, 2 times scale of w) the products are 80 %.
 *
 * AVX2: vpmaddubsw multiplies u8 by s8 into 16-bit sums of two, which saturate. Nibbles are small enough to add up eight
 * such sums; bytes are multiplied as |w| by sign(w) a, exact since |w| <= 128 and |a| <= 127.
 */
export class IntegerTile {
  readonly totals: readonly Vec[];
  readonly #t: TileCode;
  readonly #layout: IntegerLayout;
  readonly #registers: TileRegisters;
  readonly #record: RecordLayout;
  readonly #C: number;
  /** [limb][2 c + part] */
  readonly #sums: readonly (readonly Vec[])[];
  readonly #weights: readonly Vec[];
  readonly #activation: Vec;
  readonly #mask: Vec | null;
  /** Of what is added to nibbles. */
  readonly #furtherMask: Vec | null;
  readonly #table: Vec | null;
  readonly #isWide: boolean;
  /** Stored quants are not what they stand for. */
  readonly #isSigned: boolean;
  /** AVX-512: bits that weights around a centre are shifted up, which makes the centre 128. */
  readonly #shift: number;

  constructor(t: TileCode, layout: IntegerLayout, C: number, isFine: boolean) {
    this.#t = t;
    this.#layout = layout;
    this.#registers = t.registers;
    this.#C = C;
    this.#record = isFine ? fineRecord : plainRecord;
    this.#isWide = t.isa === 'avx512';
    this.#isSigned = layout.centre > 0 || layout.table !== null;
    this.#shift = this.#isWide && layout.centre > 0 ? 8 - layout.bits : 0;
    this.#activation = t.take();
    this.#weights = t.takeAll(this.#isWide ? 4 : 3);
    this.#sums = Array.from({ length: isFine ? 2 : 1 }, () => t.takeAll(PARTS * C));
    this.totals = t.takeAll(PARTS * C);
    this.#mask = this.#isWide && layout.bits < 8 ? t.take() : null;
    this.#furtherMask = this.#isWide && layout.bits > NIBBLE_BITS && layout.bits < 8 ? t.take() : null;
    this.#table = this.#isWide && layout.table ? t.take() : null;
  }

  get totalScale(): number {
    return this.#layout.quantScale * 2 ** this.#shift;
  }

  /** Registers that are free once the totals are there. */
  get temporaries(): readonly Vec[] {
    return [this.#activation, ...this.#weights, ...this.#sums.flat()];
  }

  /** Before the first tile. */
  emitConstants(): void {
    const { table, bits } = this.#layout;
    if (this.#mask) this.#t.a.vmovups(this.#mask, this.#t.bytes(this.#shift > 0 ? 0xf0 : 0x0f));
    const furtherMask = (2 ** (bits - NIBBLE_BITS) - 1) << this.#furtherBit();
    if (this.#furtherMask) this.#t.a.vmovups(this.#furtherMask, this.#t.bytes(furtherMask));
    if (this.#table && table)
      this.#t.a.vmovups(this.#table, this.#t.byteTable(table.map((value) => value - SUM_FACTOR)));
  }

  /** `numBlocks`: memory that holds K / 32. */
  emit(numBlocks: Mem): void {
    const { a } = this.#t;
    const { strip, block, header, count } = this.#registers;
    const { headerBytes, blockBytes, groupSize } = this.#layout;
    a.mov(block, strip);
    a.mov(count, numBlocks);
    this.#t.startRows();
    for (const total of this.totals) this.#t.zero(total);
    const superBlock = a.here('super_block');
    if (headerBytes > 0) {
      a.mov(header, block);
      a.add(block, headerBytes);
    }
    a.align(32);
    const loop = a.here('block');
    this.#t.prefetchNext();
    for (let g = 0; g < BLOCK / groupSize; g++) this.#addGroup(g);
    a.add(block, blockBytes);
    this.#t.advanceRows(this.#record.bytes);
    if (headerBytes === 0) {
      a.sub(count, 1);
      a.jne(loop);
      return;
    }
    a.mov(rax, block);
    a.sub(rax, header);
    a.cmp(rax, headerBytes + SUPER_BLOCKS * blockBytes);
    a.jb(loop);
    a.sub(count, SUPER_BLOCKS);
    a.jne(superBlock);
  }

  #addGroup(g: number): void {
    const { bits, table, groupSize, blockBytes } = this.#layout;
    const numQuads = groupSize / QUAD;
    if (this.#isWide) this.#startSums(g);
    for (let i = 0; i < numQuads; i++) {
      const quad = g * numQuads + i;
      this.#t.prefetchAhead(quad, BLOCK / QUAD, blockBytes);
      if (this.#isWide) this.#multiplyWide(quad);
      else if (bits === NIBBLE_BITS && !table) this.#multiplyNibbles(quad, i === 0);
      else this.#multiplyBytes(quad, i === 0);
    }
    if (this.#isWide) this.#addToTotals(g, [0, 1]);
    else for (let part = 0; part < PARTS; part++) this.#addToTotals(g, [part]);
  }

  /** AVX-512. */
  #startSums(g: number): void {
    for (const [limb, sums] of this.#sums.entries()) {
      const isCorrected = this.#isSigned && limb === this.#sums.length - 1;
      for (let c = 0; c < this.#C; c++) {
        const [first, second] = sums.slice(PARTS * c) as [Vec, Vec];
        if (isCorrected) {
          this.#groupSum(first, c, g, second);
          this.#t.a.vmovaps(second, first);
        } else {
          this.#t.zero(first);
          this.#t.zero(second);
        }
      }
    }
  }

  /** The sum of group g of the activations, times SUM_FACTOR, in every lane. */
  #groupSum(dst: Vec, c: number, g: number, temporary: Vec): void {
    const { a } = this.#t;
    const { sum, firstSum } = this.#record;
    const isHalf = this.#layout.groupSize < BLOCK;
    a.vpbroadcastd(dst, this.#t.rowPlace(c, isHalf && g === 0 ? firstSum : sum));
    if (!isHalf || g === 0) return;
    a.vpbroadcastd(temporary, this.#t.rowPlace(c, firstSum));
    a.vpsubd(dst, dst, temporary);
  }

  /** AVX-512. */
  #multiplyWide(quad: number): void {
    const { a } = this.#t;
    const { bits } = this.#layout;
    const [even, odd] = [this.#weights.slice(0, PARTS), this.#weights.slice(PARTS)];
    for (const [part, weight] of even.entries()) {
      if (bits === 8) a.vmovups(weight, this.#step(quad, part));
      else if (bits !== NIBBLE_BITS) this.#joinBits(bits, quad, part, weight, odd[part]!);
      else if (quad % 2 === 0) this.#splitNibbles(weight, odd[part]!, this.#nibbles(quad, part));
    }
    const weights = bits === NIBBLE_BITS && quad % 2 === 1 ? odd : even;
    for (let c = 0; c < this.#C; c++) {
      for (const [limb, sums] of this.#sums.entries()) {
        a.vpbroadcastd(this.#activation, this.#t.rowPlace(c, limbOffset(limb) + QUAD * quad));
        for (const [part, weight] of weights.entries()) a.vpdpbusd(sums[PARTS * c + part]!, weight, this.#activation);
      }
    }
  }

  /** AVX-512. */
  #splitNibbles(low: Vec, high: Vec, place: Mem): void {
    const { a } = this.#t;
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

  /** AVX-512: weights of 5 and 6 bits. */
  #joinBits(bits: 5 | 6, quad: number, part: number, weight: Vec, further: Vec): void {
    const { a } = this.#t;
    invariant(this.#mask && this.#furtherMask, 'nibbles and further bits have masks');
    const nibbles = this.#nibbles(quad, part);
    const isUpper = quad % 2 === 1;
    if (isUpper === this.#shift > 0) a.vpandd(weight, this.#mask, nibbles);
    else {
      if (isUpper) a.vpsrlw(weight, nibbles, NIBBLE_BITS);
      else a.vpsllw(weight, nibbles, NIBBLE_BITS);
      a.vpandd(weight, weight, this.#mask);
    }
    const { step, bit } = furtherBitsPlace(bits, quad);
    const place = this.#step(step, part);
    const up = this.#furtherBit() - bit;
    if (up >= 0) a.vpsllw(further, place, up);
    else a.vpsrlw(further, place, -up);
    a.vpternlogd(weight, further, this.#furtherMask, A_OR_B_AND_C);
  }

  /** AVX-512: the lowest bit of what is added to a nibble, which stands in the upper half of the byte if shifted. */
  #furtherBit(): number {
    return this.#shift > 0 ? this.#shift : NIBBLE_BITS;
  }

  /** AVX2. */
  #loadNibbles(dst: Vec, quad: number, part: number): void {
    const { a } = this.#t;
    a.vmovups(dst, this.#nibbles(quad, part));
    if (quad % 2 === 1) a.vpsrlw(dst, dst, NIBBLE_BITS);
    a.vpand(dst, dst, this.#t.bytes(0x0f));
  }

  /** AVX2: weights as signed bytes, or unsigned below 128. */
  #loadBytes(dst: Vec, quad: number, part: number, temporary: Vec): void {
    const { a } = this.#t;
    const { bits, centre, table } = this.#layout;
    if (bits === 8) a.vmovups(dst, this.#step(quad, part));
    else this.#loadNibbles(dst, quad, part);
    if (bits === 5 || bits === 6) {
      const more = bits - NIBBLE_BITS;
      const { step, bit } = furtherBitsPlace(bits, quad);
      a.vmovups(temporary, this.#step(step, part));
      a.vpsrlw(temporary, temporary, bit);
      a.vpand(temporary, temporary, this.#t.bytes(2 ** more - 1));
      if (centre > 0) a.vpsllw(dst, dst, more);
      else a.vpsllw(temporary, temporary, NIBBLE_BITS);
      a.vpor(dst, dst, temporary);
    }
    if (centre > 0) a.vpsubb(dst, dst, this.#t.bytes(centre));
    if (!table) return;
    a.vmovups(temporary, this.#t.byteTable(table));
    a.vpshufb(dst, temporary, dst);
  }

  /** AVX2. Eight sums of two, each at most 2 * 15 * 127, fit 16 bits. */
  #multiplyNibbles(quad: number, isFirst: boolean): void {
    const { a } = this.#t;
    const weights = this.#weights.slice(0, PARTS);
    const product = this.#weights[PARTS]!;
    for (const [part, weight] of weights.entries()) this.#loadNibbles(weight, quad, part);
    for (let c = 0; c < this.#C; c++) {
      for (const [limb, sums] of this.#sums.entries()) {
        a.vpbroadcastd(this.#activation, this.#t.rowPlace(c, limbOffset(limb) + QUAD * quad));
        for (const [part, weight] of weights.entries()) {
          const sum = sums[PARTS * c + part]!;
          a.vpmaddubsw(isFirst ? sum : product, weight, this.#activation);
          if (!isFirst) a.vpaddw(sum, sum, product);
        }
      }
    }
  }

  /** AVX2: bytes, and what becomes bytes. */
  #multiplyBytes(quad: number, isFirst: boolean): void {
    const { a } = this.#t;
    const [weight, magnitude, product] = this.#weights as [Vec, Vec, Vec];
    for (let part = 0; part < PARTS; part++) {
      this.#loadBytes(weight, quad, part, magnitude);
      if (this.#isSigned) a.vpabsb(magnitude, weight);
      for (let c = 0; c < this.#C; c++) {
        for (const [limb, sums] of this.#sums.entries()) {
          const sum = sums[PARTS * c + part]!;
          a.vpbroadcastd(product, this.#t.rowPlace(c, limbOffset(limb) + QUAD * quad));
          if (this.#isSigned) a.vpsignb(product, product, weight);
          a.vpmaddubsw(product, this.#isSigned ? magnitude : weight, product);
          a.vpmaddwd(isFirst ? sum : product, product, this.#ones());
          if (!isFirst) a.vpaddd(sum, sum, product);
        }
      }
    }
  }

  #addToTotals(g: number, parts: readonly number[]): void {
    const { a } = this.#t;
    const { minima, scaleType, groupSize } = this.#layout;
    const isHalf = groupSize < BLOCK;
    const activation = this.#activation;
    const [scalesOf, minimaOf] = [this.#weights, this.#weights.slice(parts.length)];
    for (const [i, part] of parts.entries()) {
      this.#loadScale(scalesOf[i]!, g, part, 'scales');
      if (minima !== null) this.#loadScale(minimaOf[i]!, g, part, 'minima');
    }
    for (let c = 0; c < this.#C; c++) {
      const totals = parts.map((part) => this.totals[PARTS * c + part]!);
      const sums = parts.map((part) => this.#finishSum(c, g, part));
      for (const sum of sums) a.vcvtdq2ps(sum, sum);
      a.vbroadcastss(activation, this.#t.rowPlace(c, this.#record.scale));
      for (const sum of sums) a.vmulps(sum, sum, activation);
      for (const [i, total] of totals.entries()) a.vfmadd231ps(total, sums[i]!, scalesOf[i]!);
      if (minima === null) continue;
      if (isHalf) {
        // In place of the record's scaled sum, which is of the whole block.
        const groupSum = sums[0]!;
        this.#groupSum(groupSum, c, g, sums[1] ?? this.#weights[2]!);
        a.vcvtdq2ps(groupSum, groupSum);
        a.vmulps(activation, activation, groupSum);
      } else a.vbroadcastss(activation, this.#t.rowPlace(c, this.#record.scaledSum));
      for (const [i, total] of totals.entries()) {
        if (scaleType === 'f16' || isHalf) a.vfmadd231ps(total, minimaOf[i]!, activation);
        else a.vfnmadd231ps(total, minimaOf[i]!, activation);
      }
    }
  }

  /** The group's whole sum, in one register. */
  #finishSum(c: number, g: number, part: number): Vec {
    const { a } = this.#t;
    const limbs = this.#sums.map((sums) => sums[PARTS * c + part]!);
    const temporary = this.#isWide ? this.#activation : this.#weights[2]!;
    const isNarrow = !this.#isWide && this.#layout.bits === NIBBLE_BITS && !this.#layout.table;
    if (isNarrow) for (const limb of limbs) a.vpmaddwd(limb, limb, this.#ones());
    const sum = limbs.at(-1)!;
    if (limbs.length === 2) {
      // 255 times the high part.
      const [high] = limbs as [Vec];
      a.vpslld(temporary, high, 8);
      a.vpsubd(temporary, temporary, high);
      a.vpaddd(sum, sum, temporary);
    }
    if (isNarrow && this.#isSigned) {
      this.#groupSum(this.#activation, c, g, temporary);
      a.vpsrad(this.#activation, this.#activation, Math.log2(-SUM_FACTOR / this.#layout.centre));
      a.vpaddd(sum, sum, this.#activation);
    }
    return sum;
  }

  /** Minima of half blocks are divided by -SUM_FACTOR: what they are multiplied with has that factor. */
  #loadScale(dst: Vec, g: number, part: number, which: 'scales' | 'minima'): void {
    const { a } = this.#t;
    const { block, header } = this.#registers;
    const { scaleType, groupSize } = this.#layout;
    const at = this.#layout[which];
    invariant(at !== null, 'the format has minima');
    const entryBytes = scaleType === 'f16' ? 2 : 1;
    const place = this.#t.lanePlace(block, at + g * STRIP_ROWS * entryBytes, part, entryBytes);
    if (scaleType === 'f16') {
      a.vcvtph2ps(dst, place);
      return;
    }
    if (scaleType === 's8') a.vpmovsxbd(dst, place);
    else a.vpmovzxbd(dst, place);
    a.vcvtdq2ps(dst, dst);
    if (which === 'minima' && groupSize < BLOCK) a.vmulps(dst, dst, this.#t.float(-1 / SUM_FACTOR));
    a.vcvtph2ps(this.#activation, this.#t.lanePlace(header, headerField[which], part, 2));
    a.vmulps(dst, dst, this.#activation);
  }

  #step(step: number, part: number): Mem {
    return this.#t.lanePlace(this.#registers.block, step * STEP_BYTES, part, QUAD);
  }

  /** Of a quad and its neighbour. */
  #nibbles(quad: number, part: number): Mem {
    const { bits } = this.#layout;
    invariant(bits !== 8, 'these weights have no nibbles');
    return this.#step(nibbleStep(bits, quad >> 1), part);
  }

  #ones(): Mem {
    return ripMem(this.#t.a.constant(new Uint32Array(8).fill(0x0001_0001)));
  }
}
