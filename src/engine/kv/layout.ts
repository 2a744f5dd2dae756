// Owns the byte layout of a page: [layer][K|V][kv head]{ a block of tokens }, padded to whole memory pages.
import { type CacheGroup, kvElementBytes, kvScaleBytes } from './cache-group.ts';

/*
 * What stands in a head's block is for the attention path to choose, and part of the numerics id: ggml's keeps
 * [token][head dim]; emitted kernels keep tiles of 16 tokens, keys turned (engine/jit/kernels/abi.ts).
 */

/** Mappings and the pool's pages are multiples of this (x86-64 and most arm64 systems). */
const mappingBytes = 4096;

/** Byte sizes and strides of one group's pages. All offsets are from the page's first byte. */
export interface PageLayout {
  readonly blockTokens: number;
  readonly elementBytes: number;
  /** One token's share of a head's block, its scale included. */
  readonly keyTokenBytes: number;
  readonly valueTokenBytes: number;
  /** Between heads of one layer: `blockTokens` tokens. */
  readonly keyHeadBytes: number;
  readonly valueHeadBytes: number;
  /** From a layer's keys to its values. */
  readonly valueOffset: number;
  readonly layerBytes: number;
  /** Stride of pages in the pool and in a range; a multiple of 4096. */
  readonly pageBytes: number;
}

export function pageLayout(group: CacheGroup, blockTokens: number): PageLayout {
  const elementBytes = kvElementBytes[group.element];
  const scaleBytes = kvScaleBytes[group.element];
  const keyTokenBytes = group.keyDim * elementBytes + scaleBytes;
  const valueTokenBytes = group.valueDim === 0 ? 0 : group.valueDim * elementBytes + scaleBytes;
  const keyHeadBytes = keyTokenBytes * blockTokens;
  const valueHeadBytes = valueTokenBytes * blockTokens;
  const valueOffset = keyHeadBytes * group.numKvHeads;
  const layerBytes = valueOffset + valueHeadBytes * group.numKvHeads;
  const pageBytes = Math.ceil((layerBytes * group.layers.length) / mappingBytes) * mappingBytes;
  return {
    blockTokens,
    elementBytes,
    keyTokenBytes,
    valueTokenBytes,
    keyHeadBytes,
    valueHeadBytes,
    valueOffset,
    layerBytes,
    pageBytes,
  };
}

/** Offset of a layer's keys; `layerInGroup` counts within the group. Its values lie `valueOffset` further. */
export function layerOffset(layout: PageLayout, layerInGroup: number): number {
  return layout.layerBytes * layerInGroup;
}
