// Owns the step block: what a step's KV writes and attention read of its rows, one per cache group.
// Legend: T tokens, G kv heads.
import { invariant } from '../../../common/errors.ts';
import type { Address } from '../../ffi/koffi.ts';
import { countersBytes, groupOf, type KvShape, partialBytes, TILE_TOKENS, tileBytes } from './abi.ts';
import { planTiles, type Tile } from './tiles.ts';

const LINE_BYTES = 64;
const roundUp = (value: number, unit: number) => Math.ceil(value / unit) * unit;

/*
 * A step block holds no addresses of itself: it may be written anywhere and copied to where the cell points, in memory
 * that kernels may write too.
 * All fields are little-endian; records are sorted so that nothing needs padding.
 */

/** Byte offsets in a step block. Both tables are i64 offsets from the block's start. */
const stepField = { numTiles: 0, tokens: 8, tiles: 16 } as const;
const STEP_HEADER_BYTES = 24;

/** One per token: u64 page that takes its key and value plus its tile's offset in a head's block, i32 its lane there. */
const tokenField = { tile: 0, lane: 8 } as const;
const TOKEN_BYTES = 16;

/**
 * One per tile (`tiles.ts`), i32 but for two i64 offsets from the block's start: its row's segments, and for parts what
 * they share.
 */
const tileField = {
  firstToken: 0,
  numTokens: 4,
  firstPosition: 8,
  numParts: 12,
  part: 16,
  partStart: 20,
  segments: 24,
  shared: 32,
} as const;
const TILE_BYTES = 40;

/** u64 page that holds firstPosition, i32 firstPosition, i32 numTokens. */
const segmentField = { page: 0, firstPosition: 8, numTokens: 12 } as const;
const SEGMENT_BYTES = 16;

/** Offsets for the emitters of kernels. */
export const stepLayout = {
  step: stepField,
  token: tokenField,
  tokenBytes: TOKEN_BYTES,
  tile: tileField,
  tileBytes: TILE_BYTES,
  segment: segmentField,
  segmentBytes: SEGMENT_BYTES,
} as const;

function sharedBytes(shape: KvShape, numParts: number): number {
  if (numParts === 1) return 0;
  return countersBytes(shape) + shape.numKvHeads * numParts * partialBytes(shape);
}

/** Makes ops read the step block at `stepBlock`. */
export function pointStepCell(buffer: ArrayBuffer, byteOffset: number, stepBlock: Address): void {
  setU64(new DataView(buffer, byteOffset, 8), 0, stepBlock);
}

/** A run of consecutive positions in memory; its pages follow at stride `pageBytes`. */
export interface KvSegment {
  readonly address: Address;
  /** A multiple of the block size. */
  readonly firstPosition: number;
  readonly numTokens: number;
}

/** One row of the step: its tokens are the step's next `numTokens`, at consecutive positions. */
export interface KvRow {
  readonly firstPosition: number;
  readonly numTokens: number;
  /** In ascending order, without overlap, from the first position that any token sees to the row's last, without gaps. */
  readonly segments: readonly KvSegment[];
}

export interface StepCounts {
  readonly numTokens: number;
  readonly tiles: readonly Tile[];
  readonly numSegments: number;
  readonly sharedBytes: number;
}

/** How much a step block must hold for these rows. */
export function countStep(shape: KvShape, rows: readonly KvRow[]): StepCounts {
  const tiles = planTiles(rows, groupOf(shape), shape.numKvHeads);
  return {
    numTokens: rows.reduce((sum, { numTokens }) => sum + numTokens, 0),
    tiles,
    numSegments: rows.reduce((sum, { segments }) => sum + segments.length, 0),
    sharedBytes: tiles.reduce((sum, tile) => sum + (tile.part === 0 ? sharedBytes(shape, tile.numParts) : 0), 0),
  };
}

/** Bytes of a step block; monotone in every count, so that upper bounds give an upper bound. */
export function stepBlockBytes({ numTokens, tiles, numSegments, sharedBytes: shared }: StepCounts): number {
  const tables = numTokens * TOKEN_BYTES + tiles.length * TILE_BYTES + numSegments * SEGMENT_BYTES;
  return roundUp(STEP_HEADER_BYTES + tables, LINE_BYTES) + shared;
}

/**
 * Writes the step block of one cache group at `byteOffset` (a multiple of 8); it takes `stepBlockBytes(counts)`.
 * `counts`: those of `countStep` for the same rows. Throws when segments leave a gap or end before the row does: kernels
 * trust them.
 */
export function writeStepBlock(
  buffer: ArrayBuffer,
  byteOffset: number,
  shape: KvShape,
  pageBytes: number,
  rows: readonly KvRow[],
  counts = countStep(shape, rows),
): void {
  const view = new DataView(buffer, byteOffset, stepBlockBytes(counts));
  const tokensAt = STEP_HEADER_BYTES;
  const tilesAt = tokensAt + counts.numTokens * TOKEN_BYTES;
  const segmentsAt = tilesAt + counts.tiles.length * TILE_BYTES;
  const rowSegmentsAt: number[] = [];
  let numTokens = 0;
  let segmentAt = segmentsAt;
  for (const row of rows) {
    checkSegments(row, shape.blockTokens);
    rowSegmentsAt.push(segmentAt);
    for (const segment of row.segments) {
      setU64(view, segmentAt + segmentField.page, segment.address);
      view.setInt32(segmentAt + segmentField.firstPosition, segment.firstPosition, true);
      view.setInt32(segmentAt + segmentField.numTokens, segment.numTokens, true);
      segmentAt += SEGMENT_BYTES;
    }
    writeTokens(view, tokensAt + numTokens * TOKEN_BYTES, row, shape, pageBytes);
    numTokens += row.numTokens;
  }
  setU64(view, stepField.numTiles, counts.tiles.length);
  setU64(view, stepField.tokens, tokensAt);
  setU64(view, stepField.tiles, tilesAt);
  writeTiles(view, tilesAt, shape, counts.tiles, rowSegmentsAt, roundUp(segmentAt, LINE_BYTES));
}

function writeTiles(
  view: DataView,
  tilesAt: number,
  shape: KvShape,
  tiles: readonly Tile[],
  rowSegmentsAt: readonly number[],
  sharedAt: number,
): void {
  /** By row: where its parts meet. */
  const meetings = new Map<number, number>();
  let end = sharedAt;
  let at = tilesAt;
  for (const tile of tiles) {
    let shared = tile.numParts > 1 ? meetings.get(tile.row) : 0;
    if (shared === undefined) {
      shared = end;
      meetings.set(tile.row, shared);
      for (let head = 0; head < shape.numKvHeads; head++) setU64(view, shared + 8 * head, 0);
      end += sharedBytes(shape, tile.numParts);
    }
    view.setInt32(at + tileField.firstToken, tile.firstToken, true);
    view.setInt32(at + tileField.numTokens, tile.numTokens, true);
    view.setInt32(at + tileField.firstPosition, tile.firstPosition, true);
    view.setInt32(at + tileField.numParts, tile.numParts, true);
    view.setInt32(at + tileField.part, tile.part, true);
    view.setInt32(at + tileField.partStart, tile.partStart, true);
    setU64(view, at + tileField.segments, rowSegmentsAt[tile.row] ?? 0);
    setU64(view, at + tileField.shared, shared);
    at += TILE_BYTES;
  }
}

function checkSegments({ firstPosition, numTokens, segments }: KvRow, blockTokens: number): void {
  let end = segments[0]?.firstPosition ?? 0;
  // Messages are made only when they are needed: this runs for every row of every step.
  if (end > firstPosition) invariant(false, `segments start at position ${end}, after ${firstPosition}`);
  for (const segment of segments) {
    if (segment.firstPosition !== end) invariant(false, `segments leave out position ${end}`);
    if (end % blockTokens !== 0) invariant(false, `a segment starts at position ${end}, inside a block`);
    end += segment.numTokens;
  }
  if (end < firstPosition + numTokens) invariant(false, `segments end at position ${end}, before the row`);
}

function writeTokens(view: DataView, at: number, row: KvRow, shape: KvShape, pageBytes: number): void {
  const { blockTokens } = shape;
  const perTile = tileBytes(shape);
  const end = row.firstPosition + row.numTokens;
  for (const { address, firstPosition, numTokens } of row.segments) {
    const from = Math.max(firstPosition, row.firstPosition);
    const to = Math.min(firstPosition + numTokens, end);
    for (let position = from; position < to; position++) {
      const block = Math.floor((position - firstPosition) / blockTokens);
      const token = at + (position - row.firstPosition) * TOKEN_BYTES;
      const tile = Math.floor((position % blockTokens) / TILE_TOKENS);
      setU64(view, token + tokenField.tile, address + block * pageBytes + tile * perTile);
      view.setInt32(token + tokenField.lane, position % TILE_TOKENS, true);
    }
  }
}

/** Addresses and offsets are exact as doubles (below 2^53). */
function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}
