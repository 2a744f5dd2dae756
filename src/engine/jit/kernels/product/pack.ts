// Owns packing rows of a matrix into strips, and finding a row again: nothing is lost on the way.
import { invariant } from '../../../../common/errors.ts';
import { BLOCK } from './abi.ts';
import {
  blockOffset,
  type FloatLayout,
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
    if (layout.kind === 'integer')
      packBlocks(layout, bytes, target.subarray(strip, strip + bytesOfStrip), row % STRIP_ROWS);
    else packFloats(layout.elementBytes, bytes, target, strip + (row % STRIP_ROWS) * layout.elementBytes);
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

/** The K elements of row `row` of a packed matrix, as floats: twin of emitted look-ups. */
export function unpackRow(layout: PackedLayout, packed: Uint8Array, K: number, row: number): Float32Array {
  if (layout.kind === 'float') return unpackFloats(layout, packed, K, row);
  const { quants, scales, minima } = unpackGroups(layout, packed, K, row);
  return Float32Array.from(quants, (quant, k) => {
    const group = Math.floor(k / layout.groupSize);
    const product = Math.fround(scales[group]! * quant);
    return layout.minima === null ? product : Math.fround(product + minima[group]!);
  });
}

function unpackFloats({ format, elementBytes }: FloatLayout, packed: Uint8Array, K: number, row: number): Float32Array {
  const strip = Math.floor(row / STRIP_ROWS) * K * STRIP_ROWS;
  const view = new DataView(packed.buffer, packed.byteOffset);
  const word = new DataView(new ArrayBuffer(4));
  return Float32Array.from({ length: K }, (_, k) => {
    const at = (strip + k * STRIP_ROWS + (row % STRIP_ROWS)) * elementBytes;
    if (format === 'F16') return view.getFloat16(at, true);
    if (format === 'F32') return view.getFloat32(at, true);
    word.setUint16(0, view.getUint16(at, true));
    return word.getFloat32(0);
  });
}

/** A row of integers: what its quants stand for, and what each group multiplies them with and adds. */
export interface RowGroups {
  readonly quants: Int32Array;
  readonly scales: Float32Array;
  readonly minima: Float32Array;
}

export function unpackGroups(layout: IntegerLayout, packed: Uint8Array, K: number, row: number): RowGroups {
  const strip = Math.floor(row / STRIP_ROWS) * stripBytes(layout, K);
  const view = new DataView(packed.buffer, packed.byteOffset + strip);
  const r = row % STRIP_ROWS;
  const quants = Int32Array.from({ length: K }, (_, k) => quantAt(layout, view, k, r) / layout.quantScale);
  const numGroups = K / layout.groupSize;
  const [scales, minima] = [new Float32Array(numGroups), new Float32Array(numGroups)];
  for (let group = 0; group < numGroups; group++) {
    const { scale, minimum } = groupAt(layout, view, group, r);
    scales[group] = scale;
    minima[group] = minimum;
  }
  return { quants, scales, minima };
}

/** The quant of element k, without its centre. */
function quantAt(layout: IntegerLayout, view: DataView, k: number, r: number): number {
  const at = blockOffset(layout, Math.floor(k / BLOCK)) + 4 * r + (k % 4);
  const quad = Math.floor((k % BLOCK) / 4);
  if (layout.bits === 8) return view.getUint8(at + quad * STEP_BYTES) - layout.centre;
  const byte = view.getUint8(at + nibbleStep(layout.bits, quad >> 1) * STEP_BYTES);
  const nibble = quad % 2 === 0 ? byte & 15 : byte >> 4;
  if (layout.bits === 4) return layout.table ? layout.table[nibble]! : nibble - layout.centre;
  const more = layout.bits - 4;
  const { step, bit } = furtherBitsPlace(layout.bits, quad);
  const further = (view.getUint8(at + step * STEP_BYTES) >> bit) & (2 ** more - 1);
  return layout.centre > 0 ? (nibble << more) + further - layout.centre : nibble + (further << 4);
}

function groupAt(layout: IntegerLayout, view: DataView, group: number, r: number): { scale: number; minimum: number } {
  const perBlock = BLOCK / layout.groupSize;
  const block = Math.floor(group / perBlock);
  const entry = (group % perBlock) * STRIP_ROWS + r;
  const at = blockOffset(layout, block);
  if (layout.scaleType === 'f16') {
    const half = (field: number) => view.getFloat16(at + field + 2 * entry, true);
    return { scale: half(layout.scales), minimum: layout.minima === null ? 0 : half(layout.minima) };
  }
  const factor = (field: number) => view.getFloat16(headerOffset(layout, block) + field + 2 * r, true);
  const scaleAt = at + layout.scales + entry;
  const scale = layout.scaleType === 's8' ? view.getInt8(scaleAt) : view.getUint8(scaleAt);
  return {
    scale: factor(headerField.scales) * scale,
    minimum: layout.minima === null ? 0 : -factor(headerField.minima) * view.getUint8(at + layout.minima + entry),
  };
}
