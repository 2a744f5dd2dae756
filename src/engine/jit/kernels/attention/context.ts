// Owns what the phases of the attention kernel share: sizes, scratch memory, locals.
// Legend: R query rows of a row group, U of a unit (its tokens x the heads of one kv head), K head dim, C chunk positions.
import type { Assembler } from '../../asm/assembler.ts';
import type { Frame } from '../../asm/function.ts';
import { type Mem, mem, offset } from '../../asm/operands.ts';
import type { Gpr } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { groupOf, type KvShape, partialRowBytes } from '../abi.ts';
import { CHUNK_POSITIONS, tileTokens } from '../tiles.ts';
import { NUM_LANES } from '../lanes.ts';

/** Bytes of one virtual vector of floats. */
export const WIDE_BYTES = 4 * NUM_LANES;

/** Below every score that can occur; the maximum of a chunk starts here, so that it is finite. */
export const LOWEST_MAX = -1e30;
/** Masked scores: far below LOWEST_MAX, so that their weight is exactly 0 whatever the maximum is. */
export const MASKED = -3e38;

/** Register blocking: it changes no result. */
export interface Blocking {
  /** Vector registers, and how many hold 16 lanes. */
  readonly numRegisters: number;
  readonly partsPerWide: number;
  /** Query rows of a group, at most. */
  readonly maxRows: number;
}

const blockings: Readonly<Record<Isa, Blocking>> = {
  avx2: { numRegisters: 16, partsPerWide: 2, maxRows: 6 },
  // Twice the rows would fit, but then their scores of a chunk leave no room for keys and values in the first cache.
  avx512: { numRegisters: 32, partsPerWide: 1, maxRows: 6 },
};

/** Tiles of 16 positions whose scores are computed side by side, at most. */
export const MAX_SIDES = 4;

/**
 * How many vectors, `most` at the most, stand beside `numRows` rows: an accumulator for each row and one operand per
 * vector, and one broadcast. A divisor of `most`, so that every turn is alike.
 */
export function vectorsBeside({ numRegisters, partsPerWide }: Blocking, numRows: number, most: number): number {
  let vectors = most;
  while (vectors > 1 && (vectors * (numRows + 1) * partsPerWide >= numRegisters || most % vectors !== 0)) vectors--;
  return vectors;
}

/** How far ahead of the tiles that are read the next ones are fetched: enough for the latency of memory. */
export const TILES_AHEAD = 4;
/** Addresses that stand ready behind those of the chunk. */
export const ADDRESSES_AHEAD = 10;

/** Byte offsets in a thread's scratch memory. */
export interface ScratchLayout {
  /** [U,K] queries times the scale. */
  readonly queries: number;
  /** [R,C] scores, then weights; rows `scoreStride` bytes apart. */
  readonly scores: number;
  readonly scoreStride: number;
  /** [U,K] accumulators of all chunks so far. */
  readonly sums: number;
  /** [U] running maximum and sum of weights. */
  readonly maxima: number;
  readonly totals: number;
  /** [R] what the current chunk leaves for each row, unless it is a part (`abi.ts`). */
  readonly partial: number;
  /**
   * Addresses of the tiles that the current chunk reads, in this order: its keys, its values, and the keys of the next
   * chunk that are to be fetched meanwhile (the last ones repeated where there is none).
   */
  readonly stream: number;
  readonly numBytes: number;
}

function scratchLayout(unitRows: number, groupRows: number, shape: KvShape): ScratchLayout {
  const { headDim } = shape;
  let end = 0;
  const section = (numBytes: number): number => {
    const start = end;
    end += Math.ceil(numBytes / 64) * 64;
    return start;
  };
  // A few lines more, so that equal columns of rows do not meet in one cache set.
  const scoreStride = CHUNK_POSITIONS * 4 + 3 * WIDE_BYTES;
  return {
    queries: section(unitRows * headDim * 4),
    scores: section(groupRows * scoreStride),
    scoreStride,
    sums: section(unitRows * headDim * 4),
    maxima: section(unitRows * 4),
    totals: section(unitRows * 4),
    partial: section(groupRows * partialRowBytes(shape)),
    stream: section((2 * (CHUNK_POSITIONS / NUM_LANES) + ADDRESSES_AHEAD) * 8),
    numBytes: Math.ceil(end / 4096) * 4096,
  };
}

export interface Sizes {
  readonly shape: KvShape;
  /** Query heads that share a kv head. */
  readonly group: number;
  readonly tileTokens: number;
  readonly blocking: Blocking;
  readonly scratch: ScratchLayout;
}

export function sizesOf(shape: KvShape, isa: Isa): Sizes {
  const group = groupOf(shape);
  const tokens = tileTokens(group);
  const blocking = blockings[isa];
  return {
    shape,
    group,
    tileTokens: tokens,
    blocking,
    scratch: scratchLayout(tokens * group, blocking.maxRows, shape),
  };
}

const localNames = [
  'step',
  'queryData',
  'queryHeadStride',
  'queryTokenStride',
  'outData',
  'outRowBytes',
  'window',
  /** The unit: */
  'kvHead',
  'firstToken',
  'numTokens',
  'numRows',
  'firstPosition',
  'segment',
  'numParts',
  'partStart',
  /** Addresses: of the parts' counter and results of this kv head, and of what the current chunk leaves. */
  'counter',
  'parts',
  'partial',
  /** The chunk: positions [position, chunkEnd), relative to its start from `firstColumn`, in `numTiles` tiles. */
  'position',
  'chunkEnd',
  'chunkStart',
  'firstColumn',
  'numTiles',
  /** The row group: its first row, how many rows, and the part of the chunk that they see, up to whole tiles. */
  'row',
  'groupRows',
  'groupEnd',
  'groupTiles',
  'endColumn',
  /** Free for a phase. */
  'spare',
  'blockStart',
] as const;

/** Values of the current op, unit, chunk and row group, each in 8 bytes of the stack. */
export type Locals = Readonly<Record<(typeof localNames)[number], Mem>>;

export const takeLocals = (f: Frame): Locals =>
  Object.fromEntries(localNames.map((name) => [name, f.local()])) as Locals;

/** What every phase is given. */
export interface Context {
  readonly a: Assembler;
  readonly f: Frame;
  readonly isa: Isa;
  readonly sizes: Sizes;
  readonly locals: Locals;
  readonly op: Gpr;
  /** The thread's scratch memory. */
  readonly scratch: Gpr;
}

/** A place in the thread's scratch memory. */
export const scratchAt = (c: Context, at: number): Mem => mem(c.scratch, at);

/** One row's float in a section of scratch. */
export const rowValue = (c: Context, section: number, row: Gpr): Mem =>
  mem(c.scratch, section, { index: row, scale: 4 });

/** Takes registers for the time of `body`. */
export function withGprs(c: Context, count: number, body: (...registers: Gpr[]) => void): void {
  const registers = Array.from({ length: count }, () => c.f.gpr());
  body(...registers);
  c.f.release(...registers);
}

/** A row of the unit becomes the number of its token. */
export function emitTokenOf({ a, sizes: { group } }: Context, row: Gpr): void {
  if (group === 1) return;
  // Division by multiplication, exact for rows below 2^16 / group.
  a.imul3(row, row, Math.floor(2 ** 16 / group) + 1);
  a.shr(row, 16);
}

/** Bytes of a cache line. */
export const LINE_BYTES = 64;

/**
 * Fetches `numBytes` at `place`. Tiles lie apart, so that the machine's own prefetching stops at each; and more lines
 * can be under way to the second-level cache than to the first.
 */
export function emitPrefetch({ a }: Context, place: Mem, numBytes: number): void {
  for (let at = 0; at < numBytes; at += LINE_BYTES) a.prefetcht1(offset(place, at));
}

/** Runs the `body` for the number of rows that the group has. */
export function forGroupRows(c: Context, name: string, body: (numRows: number) => void): void {
  const { a, sizes, locals } = c;
  const done = a.label(`${name}_done`);
  for (let rows = sizes.blocking.maxRows; rows > 0; rows--) {
    if (!canOccur(sizes, rows)) continue;
    const next = a.label(`${name}_not_${rows}`);
    a.cmp(locals.groupRows, rows);
    a.jne(next);
    body(rows);
    a.jmp(done);
    a.bind(next);
  }
  a.bind(done);
}

/** Whether a unit's rows (a multiple of the group), cut into groups of `maxRows`, leave one of this many. */
function canOccur({ group, tileTokens: most, blocking: { maxRows } }: Sizes, rows: number): boolean {
  for (let tokens = 1; tokens <= most; tokens++) {
    const all = tokens * group;
    if (all % maxRows === rows || (rows === maxRows && all >= maxRows)) return true;
  }
  return false;
}
