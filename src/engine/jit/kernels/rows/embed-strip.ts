// Owns looking up one row of a strip of quantised weights.
import { type Mem, mem, ripMem } from '../../asm/operands.ts';
import { type Gpr, rax, resized, type Vec } from '../../asm/registers.ts';
import { type Lanes, NUM_LANES, type Wide } from '../lanes.ts';
import type { OpFrame } from '../op.ts';
import { BLOCK } from '../product/abi.ts';
import {
  furtherBitsPlace,
  headerField,
  type IntegerLayout,
  nibbleStep,
  numBlocksOf,
  STEP_BYTES,
  STRIP_ROWS,
  SUPER_BLOCKS,
} from '../product/layout.ts';

/** Where a row's floats go, and the row's place: in the table, or of its strip and in it. */
export interface LookUp {
  readonly o: OpFrame;
  readonly lanes: Lanes;
  readonly numFeatures: number;
  readonly source: Gpr;
  readonly rowInStrip: Gpr;
  readonly out: Gpr;
  readonly count: Gpr;
  /** Multiplies with the factor. */
  readonly finish: (value: Wide) => void;
}

/** Emits values as `unpackRow` has them, times the factor. */
export function emitStripRow(lookUp: LookUp, layout: IntegerLayout): void {
  const { o, lanes, numFeatures, source, rowInStrip, out, count, finish } = lookUp;
  const { a, f } = o;
  const { bits, centre, table, quantScale, groupSize, scaleType, scales, minima, headerBytes } = layout;
  const x = Array.from({ length: 6 }, () => resized(lanes.takeSplat()[0] as Vec, 128));
  const [first, second, t, u, scaleFactor, minimumFactor] = x as [Vec, Vec, Vec, Vec, Vec, Vec];
  const [value, scale, minimum] = [lanes.take(), lanes.takeSplat(), lanes.takeSplat()];
  /** The row's entry in a table of entries of so many bytes. */
  const entryAt = (at: number, entryBytes: 1 | 2 | 4): Mem => mem(source, at, { index: rowInStrip, scale: entryBytes });
  const constant = (bytes: ArrayLike<number>): Mem => ripMem(a.constant(Uint8Array.from(bytes)));
  const splat = (byte: number): Mem => constant(new Uint8Array(16).fill(byte));

  /** One F16 in all lanes. */
  const emitHalf = (dst: Vec, at: number): void => {
    const halves = resized(dst, dst.bits === 512 ? 256 : 128);
    a.vpbroadcastw(halves, entryAt(at, 2));
    a.vcvtph2ps(dst, halves);
  };
  const emitGroupNumber = (dst: Wide, at: number, factor: Vec): void => {
    if (scaleType === 'f16') return emitHalf(dst[0] as Vec, at);
    if (scaleType === 's8') a.movsxb(rax, entryAt(at, 1));
    else a.movzxb(rax, entryAt(at, 1));
    a.vcvtsi2ss(t, t, rax);
    a.vmulss(t, t, factor);
    return lanes.spread(dst, t);
  };
  /** 4 bytes of four steps. */
  const emitQuads = (dst: Vec, step: number): void => {
    const quad = (i: number) => entryAt((bits === 8 ? step + i : nibbleStep(bits, step + i)) * STEP_BYTES, 4);
    a.vmovd(dst, quad(0));
    a.vmovd(t, quad(1));
    a.vpunpckldq(dst, dst, t);
    a.vmovd(t, quad(2));
    a.vmovd(u, quad(3));
    a.vpunpckldq(t, t, u);
    a.vpunpcklqdq(dst, dst, t);
  };
  /** Adds to nibbles what they do not hold. */
  const emitFurtherBits = (wide: 5 | 6): void => {
    const more = wide - 4;
    for (const [i, half] of [first, second].entries()) {
      const { step, bit } = furtherBitsPlace(wide, 4 * i);
      a.vpbroadcastd(t, entryAt(step * STEP_BYTES, 4));
      a.vpsrlvd(t, t, ripMem(a.constant(Uint32Array.from({ length: 4 }, (_, q) => bit + more * q))));
      a.vpand(t, t, splat(2 ** more - 1));
      if (centre > 0) a.vpslld(half, half, more);
      else a.vpslld(t, t, 4);
      a.vpor(half, half, t);
      if (centre > 0) a.vpsubb(half, half, splat(centre));
    }
  };
  /** What the block's quants stand for, 16 bytes in `first` and in `second`. */
  const emitBytes = (): void => {
    emitQuads(first, 0);
    if (bits === 8) {
      emitQuads(second, 4);
      if (centre > 0) for (const half of [first, second]) a.vpxor(half, half, splat(centre));
      return;
    }
    a.vpsrld(t, first, 4);
    a.vpand(t, t, splat(0x0f));
    a.vpand(first, first, splat(0x0f));
    a.vpunpckhdq(second, first, t);
    a.vpunpckldq(first, first, t);
    if (bits !== 4) return emitFurtherBits(bits);
    a.vmovups(t, constant(Array.from({ length: 16 }, (_, i) => table?.[i] ?? (i - centre) / quantScale)));
    for (const half of [first, second]) a.vpshufb(half, t, half);
  };

  const numBlocks = numBlocksOf(layout, numFeatures);
  const numHeaders = headerBytes > 0 ? numBlocks / SUPER_BLOCKS : 1;
  const left = f.gpr();
  a.mov(left, numHeaders);
  const headers = a.here('header');
  if (headerBytes > 0) {
    emitHalf(scaleFactor, headerField.scales);
    if (minima !== null) emitHalf(minimumFactor, headerField.minima);
    a.add(source, headerBytes);
  }
  a.mov(count, numBlocks / numHeaders);
  const loop = a.here('block');
  emitBytes();
  for (const [half, bytes] of [first, second].entries()) {
    if (half === 0 || groupSize < BLOCK) {
      const entry = half * STRIP_ROWS * (scaleType === 'f16' ? 2 : 1);
      emitGroupNumber(scale, scales + entry, scaleFactor);
      if (minima !== null) emitGroupNumber(minimum, minima + entry, minimumFactor);
    }
    for (const [i, part] of value.entries()) {
      if (i > 0) a.vpsrldq(bytes, bytes, 8);
      a.vpmovsxbd(part, bytes);
    }
    lanes.convert('vcvtdq2ps', value, value);
    lanes.op('vmulps', value, value, scale);
    // Integer minima are subtracted.
    if (minima !== null) lanes.op(scaleType === 'f16' ? 'vaddps' : 'vsubps', value, value, minimum);
    finish(value);
    lanes.store(mem(out, 4 * NUM_LANES * half), value);
  }
  a.add(source, layout.blockBytes);
  a.add(out, 4 * BLOCK);
  a.sub(count, 1);
  a.jne(loop);
  a.sub(left, 1);
  a.jne(headers);
  f.release(left);
}
