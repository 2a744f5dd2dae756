// Owns the elements of cached keys and values: how floats become them, 16 at a time, and back.
import { invariant } from '../../../common/errors.ts';
import type { Assembler } from '../asm/assembler.ts';
import { type Mem, offset } from '../asm/operands.ts';
import { resized, type Vec } from '../asm/registers.ts';
import { type Lanes, NUM_LANES, type Wide } from './lanes.ts';

/** `int8`: rounded multiples of a scale that the token's head has for itself. */
export type KvElement = 'f16' | 'bf16' | 'f32' | 'int8';

export const kvElementBytes: Readonly<Record<KvElement, number>> = { f16: 2, bf16: 2, f32: 4, int8: 1 };

/** Largest finite number of each type. Larger ones become it, so that a cached value is never infinite. */
export const largestElement: Readonly<Record<KvElement, number>> = {
  f16: 65504,
  bf16: 2 ** 127 * (2 - 2 ** -7),
  f32: Number.POSITIVE_INFINITY,
  int8: 127,
};

/** Bits of a float that bf16 leaves out. */
const BF16_SHIFT = 16;

/** 16 elements at `place`, as floats; int8 without its scale. */
export function loadElements(a: Assembler, lanes: Lanes, element: KvElement, dst: Wide, place: Mem): void {
  if (element === 'f32') return lanes.load(dst, place);
  if (element === 'f16') return lanes.loadHalf(dst, place);
  for (const [i, part] of dst.entries()) {
    const at = offset(place, (i * NUM_LANES * kvElementBytes[element]) / dst.length);
    if (element === 'bf16') {
      a.vpmovzxwd(part, at);
      a.vpslld(part, part, BF16_SHIFT);
    } else {
      a.vpmovsxbd(part, at);
      a.vcvtdq2ps(part, part);
    }
  }
}

/**
 * Rounds 16 floats (to nearest, ties to even; limits to the largest) into the low bits of their lanes; f16 is packed, as
 * `storeApart` takes it. int8 takes floats that were divided by their scale. NaN stays; in int8 it becomes 0.
 */
export function roundElements(a: Assembler, lanes: Lanes, element: KvElement, values: Wide, temporary: Wide): void {
  if (element === 'f32') return;
  const most = largestElement[element];
  for (const [name, limit] of [['vminps', most] as const, ['vmaxps', -most] as const]) {
    lanes.load(temporary, lanes.constant(limit));
    // In this order of the sources a NaN stays one.
    lanes.op(name, values, temporary, values);
  }
  if (element === 'int8') lanes.convert('vcvtps2dq', values, values);
  if (element === 'f16') for (const part of values) a.vcvtps2ph(resized(part, part.bits === 512 ? 256 : 128), part, 0);
  if (element !== 'bf16') return;
  const shiftDown = (dst: Wide) => {
    for (const [i, part] of values.entries()) a.vpsrld(dst[i] ?? part, part, BF16_SHIFT);
  };
  // Half of what is left out, less one where the last bit kept is even.
  shiftDown(temporary);
  lanes.op('vandps', temporary, temporary, lanes.constantBits(1));
  lanes.op('vpaddd', values, values, temporary);
  lanes.op('vpaddd', values, values, lanes.constantBits((1 << (BF16_SHIFT - 1)) - 1));
  shiftDown(values);
}

/** Stores 16 rounded elements `strideBytes` apart. Registers must be below 16; `values` and `temporary` are destroyed. */
export function storeApart(
  a: Assembler,
  element: KvElement,
  place: Mem,
  strideBytes: number,
  values: Wide,
  temporary: Wide,
): void {
  const [packed, other] = [element === 'f16', temporary[0]];
  invariant(other, 'a temporary has registers');
  let lane = 0;
  const store = (from: Vec): void => {
    for (let i = 0; i < (packed ? 8 : 4); i++, lane++) {
      const to = offset(place, lane * strideBytes);
      if (element === 'f32') a.vpextrd(to, from, i);
      else if (element === 'int8') a.vpextrb(to, from, 4 * i);
      else a.vpextrw(to, from, packed ? i : 2 * i);
    }
  };
  /** The lower half, then the upper one, of registers of more than 128 bits. */
  const split = (part: Vec, bits: number): void => {
    if (bits === 512) {
      a.vextractf64x4(resized(other, 256), part, 1);
      split(part, 256);
      split(other, 256);
    } else if (bits === 256) {
      store(resized(part, 128));
      a.vextracti128(resized(part, 128), resized(part, 256), 1);
      store(resized(part, 128));
    } else store(resized(part, 128));
  };
  for (const part of values) split(part, packed ? part.bits / 2 : part.bits);
}

/** Stores 16 rounded elements side by side; as `storeApart` otherwise. */
export function storeAdjacent(a: Assembler, element: KvElement, place: Mem, values: Wide, temporary: Wide): void {
  const numBytes = kvElementBytes[element];
  if (element === 'bf16' || element === 'int8') return storeApart(a, element, place, numBytes, values, temporary);
  for (const [i, part] of values.entries()) {
    const at = offset(place, (i * NUM_LANES * numBytes) / values.length);
    if (element === 'f32') a.vmovups(at, part);
    else a.vmovdqu(at, resized(part, part.bits === 512 ? 256 : 128));
  }
}
