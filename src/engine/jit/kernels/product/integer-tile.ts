// Owns the inner loop of a product with integer weights: one strip of W by a tile of rows of x.
// Legend: C rows of x, g a group of elements that share a scale.
import { invariant } from '../../../../common/errors.ts';
import type { Mem } from '../../asm/operands.ts';
import { rax, type Vec } from '../../asm/registers.ts';
import { BLOCK, SUM_FACTOR } from './abi.ts';
import { IntegerCode, type Multiplier, QUAD } from './integer-code.ts';
import { NarrowMultiplier } from './integer-narrow.ts';
import { WideMultiplier } from './integer-wide.ts';
import { headerField, type IntegerLayout, STRIP_ROWS, SUPER_BLOCKS } from './layout.ts';
import { PARTS, type TileCode } from './registers.ts';

/**
 * totals[2 c + part] = Σ over groups, in order: total = fma(F32(Σ q·a) * scale of x, scale of w, total), and with minima
 * total = fma(minimum of w, scaled sum of x, total). Sums in a group are exact integers, so they may be taken in any
 * order; of fine activations they are 255 Σ q·high + Σ q·low. Totals are `totalScale` times too large.
 */
export class IntegerTile {
  readonly totals: readonly Vec[];
  readonly #i: IntegerCode;
  readonly #multiplier: Multiplier;

  constructor(t: TileCode, layout: IntegerLayout, C: number, isFine: boolean) {
    this.#i = new IntegerCode(t, layout, C, isFine);
    this.totals = t.takeAll(PARTS * C);
    this.#multiplier = t.isa === 'avx512' ? new WideMultiplier(this.#i) : new NarrowMultiplier(this.#i);
  }

  get totalScale(): number {
    return this.#multiplier.totalScale;
  }

  /** Registers that are free once the totals are there. */
  get temporaries(): readonly Vec[] {
    return [this.#i.activation, ...this.#i.weights];
  }

  /** Before the first tile. */
  emitConstants(): void {
    this.#multiplier.emitConstants();
  }

  /** `numBlocks`: memory that holds K / 32. */
  emit(numBlocks: Mem): void {
    const { a } = this.#i.t;
    const { strip, block, header, count } = this.#i.t.registers;
    const { headerBytes, blockBytes, groupSize } = this.#i.layout;
    a.mov(block, strip);
    a.mov(count, numBlocks);
    this.#i.t.startRows();
    for (const total of this.totals) this.#i.t.zero(total);
    const superBlock = a.here('super_block');
    if (headerBytes > 0) {
      a.mov(header, block);
      a.add(block, headerBytes);
    }
    a.align(32);
    const loop = a.here('block');
    this.#i.t.prefetchNext();
    for (let g = 0; g < BLOCK / groupSize; g++) this.#addGroup(g);
    a.add(block, blockBytes);
    this.#i.t.advanceRows(this.#i.record.bytes);
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
    const { groupSize, blockBytes } = this.#i.layout;
    const numQuads = groupSize / QUAD;
    this.#multiplier.startSums(g);
    for (let i = 0; i < numQuads; i++) {
      const quad = g * numQuads + i;
      this.#i.t.prefetchAhead(quad, BLOCK / QUAD, blockBytes);
      this.#multiplier.multiply(quad, i === 0);
    }
    for (const parts of this.#multiplier.partsTogether) this.#addToTotals(g, parts);
  }

  #addToTotals(g: number, parts: readonly number[]): void {
    const { a } = this.#i.t;
    const { minima, scaleType, groupSize } = this.#i.layout;
    const isHalf = groupSize < BLOCK;
    const activation = this.#i.activation;
    const [scalesOf, minimaOf] = [this.#i.weights, this.#i.weights.slice(parts.length)];
    for (const [i, part] of parts.entries()) {
      this.#loadScale(scalesOf[i]!, g, part, 'scales');
      if (minima !== null) this.#loadScale(minimaOf[i]!, g, part, 'minima');
    }
    for (let c = 0; c < this.#i.C; c++) {
      const totals = parts.map((part) => this.totals[PARTS * c + part]!);
      const sums = parts.map((part) => this.#multiplier.finishSum(c, g, part));
      for (const sum of sums) a.vcvtdq2ps(sum, sum);
      a.vbroadcastss(activation, this.#i.t.rowPlace(c, this.#i.record.scale));
      for (const sum of sums) a.vmulps(sum, sum, activation);
      for (const [i, total] of totals.entries()) a.vfmadd231ps(total, sums[i]!, scalesOf[i]!);
      if (minima === null) continue;
      if (isHalf) {
        // In place of the record's scaled sum, which is of the whole block.
        const groupSum = sums[0]!;
        this.#i.groupSum(groupSum, c, g, sums[1] ?? this.#i.weights[2]!);
        a.vcvtdq2ps(groupSum, groupSum);
        a.vmulps(activation, activation, groupSum);
      } else a.vbroadcastss(activation, this.#i.t.rowPlace(c, this.#i.record.scaledSum));
      for (const [i, total] of totals.entries()) {
        if (scaleType === 'f16' || isHalf) a.vfmadd231ps(total, minimaOf[i]!, activation);
        else a.vfnmadd231ps(total, minimaOf[i]!, activation);
      }
    }
  }

  /** Minima of half blocks are divided by -SUM_FACTOR: what they are multiplied with has that factor. */
  #loadScale(dst: Vec, g: number, part: number, which: 'scales' | 'minima'): void {
    const { a } = this.#i.t;
    const { block, header } = this.#i.t.registers;
    const { scaleType, groupSize } = this.#i.layout;
    const at = this.#i.layout[which];
    invariant(at !== null, 'the format has minima');
    const entryBytes = scaleType === 'f16' ? 2 : 1;
    const place = this.#i.t.lanePlace(block, at + g * STRIP_ROWS * entryBytes, part, entryBytes);
    if (scaleType === 'f16') {
      a.vcvtph2ps(dst, place);
      return;
    }
    if (scaleType === 's8') a.vpmovsxbd(dst, place);
    else a.vpmovzxbd(dst, place);
    a.vcvtdq2ps(dst, dst);
    if (which === 'minima' && groupSize < BLOCK) a.vmulps(dst, dst, this.#i.t.float(-1 / SUM_FACTOR));
    a.vcvtph2ps(this.#i.activation, this.#i.t.lanePlace(header, headerField[which], part, 2));
    a.vmulps(dst, dst, this.#i.activation);
  }
}
