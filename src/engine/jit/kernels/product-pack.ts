// Owns packing rows of a matrix into strips: quants of rows interleaved, nothing computed, nothing lost.
import { invariant } from '../../../common/errors.ts';
import { BLOCK, type PackedFormat, type StripLayout } from './product-abi.ts';

/** Source: ggml-common.h. Scale, then (Q4_1) minimum, then quants. */
const sourceBlockBytes: Readonly<Record<PackedFormat, number>> = { Q4_0: 18, Q4_1: 20, Q8_0: 34 };

export const packedSourceBytes = (format: PackedFormat, K: number): number => (K / BLOCK) * sourceBlockBytes[format];

/**
 * Packs whole rows of K elements, in the file's format, as rows `firstRow`, … of the matrix at `target`. Rows behind
 * the last stay as they are: zeros multiply to zero. Both arrays start at even addresses.
 */
export function packRows(
  layout: StripLayout,
  source: Uint8Array,
  K: number,
  target: Uint8Array,
  firstRow: number,
): void {
  const rowBytes = packedSourceBytes(layout.format, K);
  const numRows = source.length / rowBytes;
  invariant(Number.isInteger(numRows) && K % BLOCK === 0, `${source.length} bytes are not rows of ${K} elements`);
  const from = new Uint16Array(source.buffer, source.byteOffset, source.length / 2);
  const to = new Uint16Array(target.buffer, target.byteOffset, target.length / 2);
  const stripBytes = (K / BLOCK) * layout.blockBytes;
  for (let i = 0; i < numRows; i++) {
    const row = firstRow + i;
    const lane = row % layout.rows;
    packRow(layout, from, (i * rowBytes) / 2, to, (Math.floor(row / layout.rows) * stripBytes) / 2, lane, K / BLOCK);
  }
}

/** Offsets and sizes count 16-bit words. */
function packRow(
  layout: StripLayout,
  from: Uint16Array,
  fromAt: number,
  to: Uint16Array,
  toAt: number,
  lane: number,
  numBlocks: number,
): void {
  const { format, unitBytes, rows } = layout;
  const hasMinima = layout.minima !== null;
  const sourceWords = sourceBlockBytes[format] / 2;
  const header = hasMinima ? 2 : 1;
  const numQuants = sourceWords - header;
  const blockWords = layout.blockBytes / 2;
  const scaleAt = layout.scales / 2 + lane;
  const minimumAt = (layout.minima ?? 0) / 2 + lane;
  const unitWords = unitBytes / 2;
  const laneAt = lane * unitWords;
  const stepWords = rows * unitWords;
  const flip = layout.flip | (layout.flip << 8);
  let source = fromAt;
  let block = toAt;
  for (let b = 0; b < numBlocks; b++) {
    to[block + scaleAt] = from[source]!;
    if (hasMinima) to[block + minimumAt] = from[source + 1]!;
    source += header;
    let quant = block + laneAt;
    if (unitWords === 1) {
      for (let i = 0; i < numQuants; i++) {
        to[quant] = from[source + i]! ^ flip;
        quant += stepWords;
      }
    } else {
      for (let i = 0; i < numQuants; i += 2) {
        to[quant] = from[source + i]! ^ flip;
        to[quant + 1] = from[source + i + 1]! ^ flip;
        quant += stepWords;
      }
    }
    source += numQuants;
    block += blockWords;
  }
}
