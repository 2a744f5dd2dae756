// Owns how matrices of weights are laid out for products: strips of 32 rows, and what a block holds in each format.
// Legend: N rows of W, K their length, r a row's place in its strip.
import { invariant } from '../../../../common/errors.ts';
import { BLOCK } from './abi.ts';

/*
 * W [N,K] is cut into strips of 32 rows; the last one is full, its missing rows are zeros. A strip is one stream. The
 * layout is the same for all instruction sets: AVX-512 reads a step's rows in two registers, AVX2 in four.
 *
 * Float formats: element k of row r stands at (32 k + r) * elementBytes in the strip.
 *
 * Integer formats: a strip is a stream of blocks, each 32 elements of K of all rows,
 *
 *   [steps of 128 bytes: 4 bytes of row 0, of row 1, …, of row 31] … [scales] [minima]
 *
 * and, where a super-block has factors, 8 blocks follow a header [32 factors F16 of scales][32 factors F16 of minima].
 * Four consecutive elements, a quad, are what one instruction multiplies with as many broadcast activations:
 *
 *   8 bits: quad q of 8 is step q.
 *   4 bits: quads 2 s and 2 s + 1 are the low and high nibbles of step s of 4.
 *   5 and 6 bits: nibbles n too, and steps f of further bits, in the order f n n n n, and f n n f n n (what is read first
 *     stands first). Nibbles are the upper bits of quants with a centre, the lower ones of others.
 *
 * Scales and minima of group g (16 or 32 elements) and row r are entry 32 g + r.
 *
 *   element = scale * (table[quant] or quant - centre) / quantScale + minimum,
 *     scale = F16, or header factor * integer;  minimum = 0, or F16, or -(header factor * integer)
 */

/** Rows of a strip. */
export const STRIP_ROWS = 32;
/** Bytes of a step: 4 of each row. */
export const STEP_BYTES = 4 * STRIP_ROWS;
/** Blocks that share a header. */
export const SUPER_BLOCKS = 8;
const F16_BYTES = 2;
/** Byte offsets in a header. */
export const headerField = { scales: 0, minima: F16_BYTES * STRIP_ROWS } as const;

export interface FloatLayout {
  readonly kind: 'float';
  readonly format: 'F32' | 'F16' | 'BF16';
  readonly elementBytes: 2 | 4;
}

export interface IntegerLayout {
  readonly kind: 'integer';
  readonly format: IntegerFormat;
  readonly bits: 4 | 5 | 6 | 8;
  /** Subtracted from stored quants: half their range, or nothing. */
  readonly centre: number;
  /** Stored quants are the file's times this, so that they fill their range and the centre fits. */
  readonly quantScale: number;
  /** What quants stand for, if not for themselves. */
  readonly table: readonly number[] | null;
  /** Elements that share a scale. */
  readonly groupSize: 16 | 32;
  /** Scales are F16, or 8-bit integers times the header's factor; minima accordingly (their integers are u8). */
  readonly scaleType: 'f16' | 'u8' | 's8';
  /** Byte offsets in a block; null: there are none. */
  readonly scales: number;
  readonly minima: number | null;
  /** 0: blocks have no headers. */
  readonly headerBytes: number;
  readonly blockBytes: number;
}

export type PackedLayout = FloatLayout | IntegerLayout;

/** Source: ggml-common.h, kvalues_iq4nl. */
const iq4nlValues = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113] as const;

const NIBBLE_BITS = 4;

/** The step whose low and high nibbles are quads 2 s and 2 s + 1. */
export const nibbleStep = (bits: 4 | 5 | 6, s: number): number => s + [0, 1, 1 + (s >> 1)][bits - NIBBLE_BITS]!;

/** Where quad q has the bits that nibbles do not hold: step, and lowest bit in the byte. */
export function furtherBitsPlace(bits: 5 | 6, q: number): { readonly step: number; readonly bit: number } {
  const more = bits - NIBBLE_BITS;
  const perByte = 8 / more;
  return { step: 3 * Math.floor(q / perByte), bit: more * (q % perByte) };
}

function integer(
  bits: 4 | 5 | 6 | 8,
  quantScale: number,
  groupSize: 16 | 32,
  scaleType: 'f16' | 'u8' | 's8',
  { hasMinima = false, table = null }: { hasMinima?: boolean; table?: readonly number[] | null } = {},
): Omit<IntegerLayout, 'format'> {
  const scales = (STRIP_ROWS * BLOCK * bits) / 8;
  const scaleBytes = (BLOCK / groupSize) * STRIP_ROWS * (scaleType === 'f16' ? F16_BYTES : 1);
  const numTables = hasMinima ? 2 : 1;
  return {
    kind: 'integer',
    bits,
    centre: hasMinima || table ? 0 : 2 ** (bits - 1),
    quantScale,
    table,
    groupSize,
    scaleType,
    scales,
    minima: hasMinima ? scales + scaleBytes : null,
    headerBytes: scaleType === 'f16' ? 0 : numTables * F16_BYTES * STRIP_ROWS,
    blockBytes: scales + numTables * scaleBytes,
  };
}

const minima = { hasMinima: true } as const;

/** Quants of 2 and 3 bits are kept as nibbles. */
const integerLayouts = {
  Q4_0: integer(4, 1, 32, 'f16'),
  Q4_1: integer(4, 1, 32, 'f16', minima),
  Q5_0: integer(5, 1, 32, 'f16'),
  Q5_1: integer(5, 1, 32, 'f16', minima),
  Q8_0: integer(8, 1, 32, 'f16'),
  IQ4_NL: integer(4, 1, 32, 'f16', { table: iq4nlValues }),
  Q2_K: integer(4, 1, 16, 'u8', minima),
  Q3_K: integer(4, 2, 16, 's8'),
  Q4_K: integer(4, 1, 32, 'u8', minima),
  Q5_K: integer(5, 1, 32, 'u8', minima),
  Q6_K: integer(6, 1, 16, 's8'),
} as const;

export type IntegerFormat = keyof typeof integerLayouts;
export type PackedFormat = FloatLayout['format'] | IntegerFormat;

const floatFormats: readonly FloatLayout['format'][] = ['F32', 'F16', 'BF16'];
const integerFormats = Object.keys(integerLayouts) as IntegerFormat[];
/** All formats that products take. */
export const packedFormats: readonly PackedFormat[] = [...floatFormats, ...integerFormats];

const layouts = new Map<string, PackedLayout>([
  ...floatFormats.map((format) => [format, { kind: 'float', format, elementBytes: format === 'F32' ? 4 : 2 }] as const),
  ...integerFormats.map((format) => [format, { ...integerLayouts[format], format }] as const),
]);

/** null: this format cannot be packed. */
export const packedLayout = (type: string): PackedLayout | null => layouts.get(type) ?? null;

/** Blocks of a row. */
export function numBlocksOf(layout: IntegerLayout, K: number): number {
  const unit = layout.headerBytes > 0 ? SUPER_BLOCKS * BLOCK : BLOCK;
  invariant(K > 0 && K % unit === 0, `rows of ${K} elements are not whole blocks of ${unit}`);
  return K / BLOCK;
}

/** Offset of block b in a strip. */
export const blockOffset = (layout: IntegerLayout, b: number): number =>
  b * layout.blockBytes + (Math.floor(b / SUPER_BLOCKS) + 1) * layout.headerBytes;

/** Offset of block b's header, if there are any. */
export const headerOffset = (layout: IntegerLayout, b: number): number =>
  Math.floor(b / SUPER_BLOCKS) * (SUPER_BLOCKS * layout.blockBytes + layout.headerBytes);

export function stripBytes(layout: PackedLayout, K: number): number {
  if (layout.kind === 'float') return K * STRIP_ROWS * layout.elementBytes;
  const numBlocks = numBlocksOf(layout, K);
  return numBlocks * layout.blockBytes + (numBlocks / SUPER_BLOCKS) * layout.headerBytes;
}

/** Bytes of a packed matrix [N,K]. */
export const packedBytes = (layout: PackedLayout, N: number, K: number): number =>
  Math.ceil(N / STRIP_ROWS) * stripBytes(layout, K);
