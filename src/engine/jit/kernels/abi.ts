// Owns what emitted KV kernels read besides tensors: the node block of a layer and the step block of a cache group.
// Legend: T tokens, H heads, G kv heads, K head dim, B tokens per block.
import { invariant } from '../../../common/errors.ts';
import type { Address } from '../../ffi/koffi.ts';
import { type KvElement, kvElementBytes } from './kv-element.ts';
import { OP_FIELDS, OpBlock, opField } from './op.ts';
import { planTiles, type Tile } from './tiles.ts';

const LINE_BYTES = 64;
const roundUp = (value: number, unit: number) => Math.ceil(value / unit) * unit;

/*
 *   op block (static, one per layer) ─► step cell (8 bytes) ─► step block (one per step and cache group)
 *
 * A step block holds no addresses of itself: it may be written anywhere and copied to where the cell points, in memory
 * that kernels may write too.
 * All fields are little-endian; records are sorted so that nothing needs padding.
 */

/** Fields of struct ggml_tensor that kernels read (ggml.h; checked against the loaded library by engine/ffi). */
export const tensorField = { ne: 16, nb: 48, src: 152, data: 248 } as const;

/** What is fixed when kernels for a cache group are emitted. */
export interface KvShape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  /** A multiple of 16 from 16 to 256; keys and values have the same. */
  readonly headDim: number;
  /** Tokens per block: 16, 32, 64, … */
  readonly blockTokens: number;
  readonly element: KvElement;
  /** Whether scores pass through softCap * tanh(score / softCap); its size is a node field. */
  readonly hasSoftCap: boolean;
}

/** Throws unless kernels can be emitted for this shape. */
export function checkShape(shape: KvShape): void {
  const { numHeads, numKvHeads, headDim, blockTokens } = shape;
  invariant(
    headDim % 16 === 0 && headDim >= 16 && headDim <= 256,
    `head dim ${headDim} is 16 to 256, a multiple of 16`,
  );
  invariant(numKvHeads > 0 && numHeads % numKvHeads === 0, `${numHeads} heads share ${numKvHeads} kv heads evenly`);
  invariant(
    blockTokens >= 16 && Number.isInteger(Math.log2(blockTokens)),
    `blocks of ${blockTokens} tokens: 16, 32, …`,
  );
}

/** Query heads that share a kv head. */
export const groupOf = ({ numHeads, numKvHeads }: KvShape): number => numHeads / numKvHeads;

/*
 * A head's block in a page is tiles of 16 tokens. Keys stand turned, so that a register holds one element of 16 tokens:
 *
 *   keys   [blockTokens/16]{ [K,16] elements, scales }      values [blockTokens/16]{ [16,K] elements, scales }
 *
 * Only int8 has scales, [16] floats: element * scale is the value. One token and head has one key's and one value's.
 */
export const TILE_TOKENS = 16;

export const elementBytes = ({ element }: KvShape): number => kvElementBytes[element];
/** Bytes of a tile's elements; its scales follow. */
export const tileElementBytes = ({ headDim, element }: KvShape): number =>
  TILE_TOKENS * headDim * kvElementBytes[element];
export const tileBytes = (shape: KvShape): number => tileElementBytes(shape) + (hasScales(shape) ? 4 * TILE_TOKENS : 0);
export const headBytes = (shape: KvShape): number => (shape.blockTokens / TILE_TOKENS) * tileBytes(shape);
export const hasScales = ({ element }: KvShape): boolean => element === 'int8';

const fields = <const N extends string>(...names: readonly N[]) =>
  Object.fromEntries(names.map((name, i) => [name, OP_FIELDS + 8 * i])) as Record<N, number>;

/** What both ops of a layer know of its pages. Names of distances between rows are of float matrices, in bytes. */
const pageFields = [
  /** u64 address of the step cell. */
  'stepCell',
  /** i64 from a page's first byte to the layer's keys and values. */
  'keyOffset',
  'valueOffset',
  /** i64 distance of a segment's pages. */
  'pageBytes',
] as const;

/** Byte offsets in the block of a KV write op. */
export const kvWriteField = fields(
  ...pageFields,
  ...(['keys', 'keyRowBytes', 'keyHeadBytes', 'values', 'valueRowBytes', 'valueHeadBytes'] as const),
);
/** Byte offsets in the block of an attention op. */
export const attentionField = fields(
  ...pageFields,
  /** i64 positions that a token sees, itself included. */
  'window',
  /** u64 scratch of thread i: scratch + i * scratchBytes. */
  'scratch',
  'scratchBytes',
  /** f32 factor of queries: log2(e) * scale; with a soft cap scale / softCap. */
  'queryScale',
  /** f32 log2(e) * softCap; 0 without. */
  'softCap',
  /** u64 address of [H] f32 sinks; 0: none. */
  'sinks',
  ...(['queries', 'queryRowBytes', 'queryHeadBytes', 'out', 'outRowBytes'] as const),
);
/** Of both ops. */
export const KV_OP_BYTES = 256;

/** Byte offsets in a step block. Both tables are i64 offsets from the block's start. */
const stepField = { numTokens: 0, paddedTokens: 4, numTiles: 8, tokens: 16, tiles: 24 } as const;
const STEP_HEADER_BYTES = 32;

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

/**
 * What a chunk leaves for each query row: [K] accumulator, then maximum and sum. A token's parts share u64 counters, one
 * per kv head, then their results, [kv head][part][row].
 */
export const partialRowBytes = ({ headDim }: KvShape): number => headDim * 4 + LINE_BYTES;
export const partialField = (shape: KvShape) => ({ maximum: shape.headDim * 4, total: shape.headDim * 4 + 4 });
export const partialBytes = (shape: KvShape): number => partialRowBytes(shape) * groupOf(shape);
export const countersBytes = ({ numKvHeads }: KvShape): number => roundUp(8 * numKvHeads, LINE_BYTES);

function sharedBytes(shape: KvShape, numParts: number): number {
  if (numParts === 1) return 0;
  return countersBytes(shape) + shape.numKvHeads * numParts * partialBytes(shape);
}

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

/** A matrix of floats [T,heads,K], elements of a head adjacent. */
export interface HeadRows {
  readonly address: Address;
  /** Between tokens, and between heads of a token. */
  readonly rowBytes: number;
  readonly headBytes: number;
}

/** Where a layer's keys and values lie. Byte quantities are those of `kv/layout.ts`. */
export interface LayerPages {
  /** Address of 8 bytes that hold the address of the current step block (`pointStepCell`). */
  readonly stepCell: Address;
  /** From a page's first byte to the layer's keys, and to its values. */
  readonly keyOffset: number;
  readonly valueOffset: number;
  readonly pageBytes: number;
}

export interface KvWriteOptions extends LayerPages {
  /** Address of the i64 number of tokens of the step. */
  readonly rows: Address;
  readonly keys: HeadRows;
  readonly values: HeadRows;
}

export interface AttentionOptions extends LayerPages {
  /** Address of the i64 number of tokens of the step. */
  readonly rows: Address;
  readonly queries: HeadRows;
  /** [T,H*K], heads adjacent. */
  readonly out: { readonly address: Address; readonly rowBytes: number };
  /** Positions that a token sees, itself included; null: all. */
  readonly window: number | null;
  /** Factor of query · key, usually headDim ** -0.5. */
  readonly scale: number;
  /** Scores become softCap * tanh(score / softCap); null: they stay. Must agree with the shape's `hasSoftCap`. */
  readonly softCap: number | null;
  /** [H] floats: logits that take weight and give no value; null: none. */
  readonly sinks: Address | null;
  /** Memory for the kernel: `attentionScratchBytes(shape)` for each thread. Ops may share it: they run in turn. */
  readonly scratch: Address;
  readonly scratchBytes: number;
}

/** Writes the block of a KV write op, KV_OP_BYTES at `byteOffset`, which must be a multiple of 64 in memory. */
export function writeKvWriteOp(buffer: ArrayBuffer, byteOffset: number, options: KvWriteOptions): void {
  const block = new OpBlock(buffer, byteOffset, KV_OP_BYTES);
  const { rows, keys, values } = options;
  block.set(opField.rows, rows);
  for (const name of pageFields) block.set(kvWriteField[name], options[name]);
  block.set(kvWriteField.keys, keys.address);
  block.set(kvWriteField.keyRowBytes, keys.rowBytes);
  block.set(kvWriteField.keyHeadBytes, keys.headBytes);
  block.set(kvWriteField.values, values.address);
  block.set(kvWriteField.valueRowBytes, values.rowBytes);
  block.set(kvWriteField.valueHeadBytes, values.headBytes);
}

/** Writes the block of an attention op, KV_OP_BYTES at `byteOffset`, which must be a multiple of 64 in memory. */
export function writeAttentionOp(buffer: ArrayBuffer, byteOffset: number, options: AttentionOptions): void {
  const block = new OpBlock(buffer, byteOffset, KV_OP_BYTES);
  const { rows, queries, out, scale, softCap } = options;
  block.set(opField.rows, rows);
  for (const name of pageFields) block.set(attentionField[name], options[name]);
  block.set(attentionField.window, options.window ?? 2 ** 31);
  block.set(attentionField.scratch, options.scratch);
  block.set(attentionField.scratchBytes, options.scratchBytes);
  block.setFloat(attentionField.queryScale, softCap === null ? scale * Math.LOG2E : scale / softCap);
  block.setFloat(attentionField.softCap, softCap === null ? 0 : softCap * Math.LOG2E);
  block.set(attentionField.sinks, options.sinks ?? 0);
  block.set(attentionField.queries, queries.address);
  block.set(attentionField.queryRowBytes, queries.rowBytes);
  block.set(attentionField.queryHeadBytes, queries.headBytes);
  block.set(attentionField.out, out.address);
  block.set(attentionField.outRowBytes, out.rowBytes);
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
  /** T, padding included. */
  readonly paddedTokens: number;
  readonly tiles: readonly Tile[];
  readonly numSegments: number;
  readonly sharedBytes: number;
}

/** How much a step block must hold for these rows. */
export function countStep(shape: KvShape, rows: readonly KvRow[], paddedTokens: number): StepCounts {
  const tiles = planTiles(rows, groupOf(shape), shape.numKvHeads);
  return {
    paddedTokens,
    tiles,
    numSegments: rows.reduce((sum, { segments }) => sum + segments.length, 0),
    sharedBytes: tiles.reduce((sum, tile) => sum + (tile.part === 0 ? sharedBytes(shape, tile.numParts) : 0), 0),
  };
}

/** Bytes of a step block; monotone in every count, so that upper bounds give an upper bound. */
export function stepBlockBytes({ paddedTokens, tiles, numSegments, sharedBytes: shared }: StepCounts): number {
  const tables = paddedTokens * TOKEN_BYTES + tiles.length * TILE_BYTES + numSegments * SEGMENT_BYTES;
  return roundUp(STEP_HEADER_BYTES + tables, LINE_BYTES) + shared;
}

/**
 * `counts`: those of `countStep` for the same rows, where the caller has them.
 * Writes the step block of one cache group at `byteOffset` (a multiple of 8); it takes
 * `stepBlockBytes(countStep(shape, rows, paddedTokens))`. Tokens behind those of the rows are padding: their keys are
 * not written and their outputs are 0. Throws when segments leave a gap or end before the row does: kernels trust them.
 */
export function writeStepBlock(
  buffer: ArrayBuffer,
  byteOffset: number,
  shape: KvShape,
  pageBytes: number,
  rows: readonly KvRow[],
  paddedTokens: number,
  counts = countStep(shape, rows, paddedTokens),
): void {
  const view = new DataView(buffer, byteOffset, stepBlockBytes(counts));
  const tokensAt = STEP_HEADER_BYTES;
  const tilesAt = tokensAt + paddedTokens * TOKEN_BYTES;
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
  invariant(numTokens <= paddedTokens, `${numTokens} tokens in a step of ${paddedTokens}`);
  view.setInt32(stepField.numTokens, numTokens, true);
  view.setInt32(stepField.paddedTokens, paddedTokens, true);
  view.setInt32(stepField.numTiles, counts.tiles.length, true);
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
