// Owns packing rows of a matrix into strips, and finding a row again: nothing is lost on the way.
import { invariant } from '../../../../common/errors.ts';
import { BLOCK } from './abi.ts';
import {
  blockOffset,
  furtherBitsPlace,
  headerField,
  headerOffset,
  nibbleStep,
  type IntegerLayout,
  type PackedLayout,
  STEP_BYTES,
  STRIP_ROWS,
  stripBytes,
} from './layout.ts';
import { emptyBlock, type SourceBlock, sourceFormats } from './source.ts';

/**
 * Where a matrix's rows go. `gate` and `up`: two matrices [F,K] become one of 2 F rows whose strips hold 16 rows of
 * `gate` and the same 16 of `up`, for products that end with act(gate) * up.
 */
export type RowPlace = 'plain' | 'gate' | 'up';

const HALF = STRIP_ROWS / 2;

/** Bytes of a row in the file's format. */
export function sourceBytes(layout: PackedLayout, K: number): number {
  if (layout.kind === 'float') return K * layout.elementBytes;
  const { blockElements, blockBytes } = sourceFormats[layout.format];
  return (K / blockElements) * blockBytes;
}

/** The row's place in the packed matrix. */
export function packedRow(place: RowPlace, row: number): number {
  if (place === 'plain') return row;
  return Math.floor(row / HALF) * STRIP_ROWS + (row % HALF) + (place === 'up' ? HALF : 0);
}

/** Rows of the packed matrix of a gated product with F outputs; the last strip is whole. */
export const gatedRows = (F: number): number => Math.ceil(F / HALF) * STRIP_ROWS;

/**
 * Packs whole rows of K elements, in the file's format, as rows `firstRow`, … of the matrix at `target`, which starts as
 * zeros at a multiple of 4. Rows that nothing is packed to stay zeros.
 */
export function packRows(
  layout: PackedLayout,
  source: Uint8Array,
  K: number,
  target: Uint8Array,
  firstRow: number,
  place: RowPlace = 'plain',
): void {
  const rowBytes = sourceBytes(layout, K);
  const numRows = source.length / rowBytes;
  invariant(Number.isInteger(numRows), `${source.length} bytes are not rows of ${K} elements`);
  const bytesOfStrip = stripBytes(layout, K);
  for (let i = 0; i < numRows; i++) {
    const row = packedRow(place, firstRow + i);
    const strip = Math.floor(row / STRIP_ROWS) * bytesOfStrip;
    const bytes = source.subarray(i * rowBytes, (i + 1) * rowBytes);
    if (layout.kind === 'integer') {
      const pack = isSimple(layout) ? packSimpleBlocks : packBlocks;
      pack(layout, bytes, target.subarray(strip, strip + bytesOfStrip), row % STRIP_ROWS);
    } else packFloats(layout.elementBytes, bytes, target, strip + (row % STRIP_ROWS) * layout.elementBytes);
  }
}

const words16 = ({ buffer, byteOffset, length }: Uint8Array) => new Uint16Array(buffer, byteOffset, length / 2);
const words32 = ({ buffer, byteOffset, length }: Uint8Array) => new Uint32Array(buffer, byteOffset, length / 4);

function packFloats(elementBytes: 2 | 4, source: Uint8Array, target: Uint8Array, at: number): void {
  // Rows of files are aligned to their elements.
  const from = elementBytes === 4 ? words32(source) : words16(source);
  const to = elementBytes === 4 ? words32(target) : words16(target);
  let word = at / elementBytes;
  for (let k = 0; k < from.length; k++) {
    to[word] = from[k]!;
    word += STRIP_ROWS;
  }
}

/** Whether a block of the file is a block here: nibbles or bytes, an F16 scale, perhaps an F16 minimum. */
const isSimple = ({ bits, scaleType, groupSize, quantScale }: IntegerLayout) =>
  (bits === 4 || bits === 8) && scaleType === 'f16' && groupSize === BLOCK && quantScale === 1;

/** As `packBlocks`, four times as quick: what most files consist of goes straight from word to word. */
function packSimpleBlocks(layout: IntegerLayout, source: Uint8Array, strip: Uint8Array, lane: number): void {
  const { bits, scales, minima, blockBytes } = layout;
  const sourceBlockBytes = sourceFormats[layout.format].blockBytes;
  const from = new DataView(source.buffer, source.byteOffset, source.length);
  const [words, halves] = [words32(strip), words16(strip)];
  const quants = minima === null ? 2 : 4;
  let word = lane;
  let scale = scales / 2 + lane;
  let minimum = (minima ?? 0) / 2 + lane;
  for (let at = 0; at < source.length; at += sourceBlockBytes) {
    halves[scale] = from.getUint16(at, true);
    if (minima !== null) halves[minimum] = from.getUint16(at + 2, true);
    if (bits === 8) {
      for (let q = 0; q < 8; q++) {
        words[word + q * STEP_WORDS] = from.getUint32(at + 2 + 4 * q, true) ^ SIGN_BITS;
      }
    } else {
      // Low nibbles are the first half of the block, high ones the second.
      for (let pair = 0; pair < 2; pair++) {
        const first = from.getUint32(at + quants + 8 * pair, true);
        const second = from.getUint32(at + quants + 8 * pair + 4, true);
        const to = word + pair * STEP_WORDS;
        words[to] = (first & NIBBLES) | ((second & NIBBLES) << 4);
        words[to + 2 * STEP_WORDS] = ((first >>> 4) & NIBBLES) | (second & ~NIBBLES);
      }
    }
    word += blockBytes / 4;
    scale += blockBytes / 2;
    minimum += blockBytes / 2;
  }
}

function packBlocks(layout: IntegerLayout, source: Uint8Array, strip: Uint8Array, lane: number): void {
  const { blockElements, blockBytes, read } = sourceFormats[layout.format];
  const from = new DataView(source.buffer, source.byteOffset, source.length);
  const perSource = blockElements / BLOCK;
  const block = emptyBlock();
  const to = new DataView(strip.buffer, strip.byteOffset, strip.length);
  const words = words32(strip);
  for (let s = 0; s * blockBytes < source.length; s++) {
    read(from, s * blockBytes, block);
    if (layout.headerBytes > 0) {
      const header = headerOffset(layout, s * perSource) + 2 * lane;
      to.setUint16(header + headerField.scales, block.scaleFactor, true);
      if (layout.minima !== null) to.setUint16(header + headerField.minima, block.minimumFactor, true);
    }
    for (let b = 0; b < perSource; b++)
      packBlock(layout, block, b, to, words, blockOffset(layout, s * perSource + b), lane);
  }
}

function packBlock(
  layout: IntegerLayout,
  block: SourceBlock,
  b: number,
  to: DataView,
  words: Uint32Array,
  at: number,
  lane: number,
): void {
  const { groupSize, scaleType, scales, minima } = layout;
  packQuants(layout, block.quants, 8 * b, words, at / 4 + lane);
  const numGroups = BLOCK / groupSize;
  for (let g = 0; g < numGroups; g++) {
    const entry = g * STRIP_ROWS + lane;
    const index = b * numGroups + g;
    if (scaleType === 'f16') to.setUint16(at + scales + 2 * entry, block.scales[index]!, true);
    else to.setUint8(at + scales + entry, block.scales[index]!);
    if (minima === null) continue;
    if (scaleType === 'f16') to.setUint16(at + minima + 2 * entry, block.minima[index]!, true);
    else to.setUint8(at + minima + entry, block.minima[index]!);
  }
}

const STEP_WORDS = STEP_BYTES / 4;
const NIBBLES = 0x0f0f0f0f;
const ONES = 0x01010101;
const SIGN_BITS = 0x80808080;

/** Eight words of quants from `first` on, to a row's place in the block. */
function packQuants(layout: IntegerLayout, quants: Uint32Array, first: number, to: Uint32Array, at: number): void {
  const { bits, centre, quantScale } = layout;
  if (bits === 8) {
    for (let q = 0; q < 8; q++) to[at + q * STEP_WORDS] = quants[first + q]!;
    return;
  }
  const more = bits - 4;
  const [nibbleShift, moreShift] = centre > 0 ? [more, 0] : [0, 4];
  for (let step = 0; step < 4; step++) {
    const [low, high] = [quants[first + 2 * step]! >>> nibbleShift, quants[first + 2 * step + 1]! >>> nibbleShift];
    to[at + nibbleStep(bits, step) * STEP_WORDS] = ((low & NIBBLES) | ((high & NIBBLES) << 4)) * quantScale;
  }
  if (bits === 4) return;
  for (let q = 0; q < 8; q++) {
    const { step, bit } = furtherBitsPlace(bits, q);
    to[at + step * STEP_WORDS]! |= ((quants[first + q]! >>> moreShift) & (ONES * (2 ** more - 1))) << bit;
  }
}
