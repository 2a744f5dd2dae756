// Owns what emitted KV kernels are told: the shape of a cache group, its tiles in pages, and the ops of a layer.
// Legend: T tokens, H heads, G kv heads, K head dim.
import { invariant } from '../../../common/errors.ts';
import type { Address } from '../../ffi/koffi.ts';
import { type KvElement, kvElementBytes } from './kv-element.ts';
import { OP_FIELDS, OpBlock, opField } from './op.ts';

const LINE_BYTES = 64;
const roundUp = (value: number, unit: number) => Math.ceil(value / unit) * unit;

/*
 *   op block (static, one per layer) ─► step cell (8 bytes) ─► step block (one per step and cache group: step-block.ts)
 */

/** What is fixed when kernels for a cache group are emitted. */
export interface KvShape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  /** A multiple of 16 from 16 to 256; keys and values have the same. */
  readonly headDim: number;
  /** Tokens per block: 16, 32, 64, … */
  readonly blockTokens: number;
  readonly element: KvElement;
  /** Whether scores pass through softCap * tanh(score / softCap); its size is a field of the op. */
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

/** As part of a kernel's name: element, query heads and kv heads x head dim. */
export const shapeName = ({ numHeads, numKvHeads, headDim, element, hasSoftCap }: KvShape): string =>
  `${element}_${numHeads}_${numKvHeads}x${headDim}${hasSoftCap ? '_capped' : ''}`;

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

/**
 * What a chunk leaves for each query row: [K] accumulator, then maximum and sum. A token's parts share u64 counters, one
 * per kv head, then their results, [kv head][part][row].
 */
export const partialRowBytes = ({ headDim }: KvShape): number => headDim * 4 + LINE_BYTES;
export const partialField = (shape: KvShape) => ({ maximum: shape.headDim * 4, total: shape.headDim * 4 + 4 });
export const partialBytes = (shape: KvShape): number => partialRowBytes(shape) * groupOf(shape);
export const countersBytes = ({ numKvHeads }: KvShape): number => roundUp(8 * numKvHeads, LINE_BYTES);

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
