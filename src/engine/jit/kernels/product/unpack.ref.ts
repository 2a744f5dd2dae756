// Owns finding a row of a packed matrix again: twin of emitted look-ups, and what twins of products multiply with.
import { BLOCK } from './abi.ts';
import {
  blockOffset,
  type FloatLayout,
  furtherBitsPlace,
  headerField,
  headerOffset,
  type IntegerLayout,
  nibbleStep,
  type PackedLayout,
  STEP_BYTES,
  STRIP_ROWS,
  stripBytes,
} from './layout.ts';

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
