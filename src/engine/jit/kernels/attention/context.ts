// Owns what the phases of the attention kernel share: sizes, scratch memory, locals.
// Legend: R query rows of a tile (its tokens x the heads of one kv head), K head dim, C chunk positions.
import type { Assembler } from '../../asm/assembler.ts';
import type { Frame } from '../../asm/function.ts';
import { type Mem, mem, offset } from '../../asm/operands.ts';
import type { Gpr } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { elementBytes, groupOf, type KvShape, partialRowBytes } from '../abi.ts';
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
  /** Query rows at a time, at most. */
  readonly maxRows: number;
}

const blockings: Readonly<Record<Isa, Blocking>> = {
  // 6 accumulators of two registers, an operand of two, a broadcast.
  avx2: { numRegisters: 16, partsPerWide: 2, maxRows: 6 },
  // 24 accumulators for two tiles or column groups, which saves every other broadcast.
  avx512: { numRegisters: 32, partsPerWide: 1, maxRows: 12 },
};

/** Tiles of 16 positions whose scores are computed side by side, at most. */
export const MAX_SIDES = 4;

/** Tiles side by side: as many as registers hold beside one broadcast, so that few rows too keep many sums in flight. */
export function sidesFor({ numRegisters, partsPerWide }: Blocking, numRows: number): number {
  return Math.min(MAX_SIDES, Math.floor((numRegisters - 1) / partsPerWide / (numRows + 1)));
}

/** Byte offsets in a thread's scratch memory. */
export interface ScratchLayout {
  /** [R,K] queries times the scale. */
  readonly queries: number;
  /** [K,16 * sides] keys of a few tiles, transposed. */
  readonly keys: number;
  /** [R,C] scores, then weights; rows `scoreStride` bytes apart. */
  readonly scores: number;
  readonly scoreStride: number;
  /** [R,K] accumulators of all chunks so far. */
  readonly sums: number;
  /** [R] running maximum and sum of weights. */
  readonly maxima: number;
  readonly totals: number;
  /** What the current chunk leaves for each row, unless it is a part (`abi.ts`). */
  readonly partial: number;
  /**
   * [C / 16 + MAX_SIDES] addresses of the chunk's tiles: page plus place in the page, without the layer's key or value
   * offset; the last one repeated, so that there always is a next one to fetch.
   */
  readonly tiles: number;
  readonly numBytes: number;
}

function scratchLayout(maxRows: number, shape: KvShape): ScratchLayout {
  const { headDim } = shape;
  let end = 0;
  const section = (numBytes: number): number => {
    const start = end;
    end += Math.ceil(numBytes / 64) * 64;
    return start;
  };
  // Tiles side by side may reach behind the chunk; and equal columns of rows should not meet in one cache set.
  const scoreStride = CHUNK_POSITIONS * 4 + (MAX_SIDES - 1) * WIDE_BYTES;
  return {
    queries: section(maxRows * headDim * 4),
    keys: section(headDim * MAX_SIDES * WIDE_BYTES),
    scores: section(maxRows * scoreStride),
    scoreStride,
    sums: section(maxRows * headDim * 4),
    maxima: section(maxRows * 4),
    totals: section(maxRows * 4),
    partial: section(maxRows * partialRowBytes(shape)),
    tiles: section((CHUNK_POSITIONS / NUM_LANES + MAX_SIDES) * 8),
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
  readonly elementBytes: number;
  /** Between tokens of a head, and heads of a layer, in a page. */
  readonly tokenBytes: number;
  readonly headBytes: number;
}

export function sizesOf(shape: KvShape, isa: Isa): Sizes {
  const group = groupOf(shape);
  const tokens = tileTokens(group);
  const tokenBytes = shape.headDim * elementBytes(shape);
  const blocking = blockings[isa];
  return {
    shape,
    group,
    tileTokens: tokens,
    blocking,
    scratch: scratchLayout(tokens * group, shape),
    elementBytes: elementBytes(shape),
    tokenBytes,
    headBytes: tokenBytes * shape.blockTokens,
  };
}

/** Values of the current op, unit and chunk, each in 8 bytes of the stack. */
export interface Locals {
  readonly op: Mem;
  readonly step: Mem;
  readonly queryData: Mem;
  readonly queryHeadStride: Mem;
  readonly queryTokenStride: Mem;
  readonly outData: Mem;
  readonly outRowBytes: Mem;
  readonly window: Mem;
  readonly keyOffset: Mem;
  readonly valueOffset: Mem;
  /** The tile: */
  readonly kvHead: Mem;
  readonly firstToken: Mem;
  readonly numTokens: Mem;
  readonly numRows: Mem;
  readonly firstPosition: Mem;
  readonly segment: Mem;
  readonly numParts: Mem;
  readonly partStart: Mem;
  /** Addresses: of the parts' counter and results of this kv head, and of what the current chunk leaves. */
  readonly counter: Mem;
  readonly parts: Mem;
  readonly partial: Mem;
  /** The chunk: positions [position, chunkEnd), relative to its start [firstColumn, endColumn). */
  readonly position: Mem;
  readonly chunkEnd: Mem;
  readonly chunkStart: Mem;
  readonly firstColumn: Mem;
  readonly endColumn: Mem;
  readonly numTiles: Mem;
  /** Free for a phase. */
  readonly spare: Mem;
}

export function takeLocals(f: Frame): Locals {
  return {
    op: f.local(),
    step: f.local(),
    queryData: f.local(),
    queryHeadStride: f.local(),
    queryTokenStride: f.local(),
    outData: f.local(),
    outRowBytes: f.local(),
    window: f.local(),
    keyOffset: f.local(),
    valueOffset: f.local(),
    kvHead: f.local(),
    firstToken: f.local(),
    numTokens: f.local(),
    numRows: f.local(),
    firstPosition: f.local(),
    segment: f.local(),
    numParts: f.local(),
    partStart: f.local(),
    counter: f.local(),
    parts: f.local(),
    partial: f.local(),
    position: f.local(),
    chunkEnd: f.local(),
    chunkStart: f.local(),
    firstColumn: f.local(),
    endColumn: f.local(),
    numTiles: f.local(),
    spare: f.local(),
  };
}

/** What every phase is given. */
export interface Context {
  readonly a: Assembler;
  readonly f: Frame;
  readonly isa: Isa;
  readonly sizes: Sizes;
  readonly locals: Locals;
  /** The thread's scratch memory. */
  readonly scratch: Gpr;
}

/** A place in the thread's scratch memory. */
export const scratchAt = (c: Context, offset: number): Mem => mem(c.scratch, offset);

/** One row's float in a section of scratch. */
export const rowValue = (c: Context, section: number, row: Gpr): Mem =>
  mem(c.scratch, section, { index: row, scale: 4 });

/** Takes registers for the time of `body`. */
export function withGprs(c: Context, count: number, body: (...registers: Gpr[]) => void): void {
  const registers = Array.from({ length: count }, () => c.f.gpr());
  body(...registers);
  c.f.release(...registers);
}

/** Bytes of a cache line. */
const LINE_BYTES = 64;

/** Fetches `numBytes` at `place` into the caches. Pages lie apart, so that the machine's own prefetching stops at each. */
export function emitPrefetch({ a }: Context, place: Mem, numBytes: number): void {
  for (let at = 0; at < numBytes; at += LINE_BYTES) a.prefetcht0(offset(place, at));
}

/**
 * Runs `body(n)` for the rows of a tile, as many at a time as registers hold, then the rest; `remaining` counts down
 * from the number of rows. `body` must leave its pointers at the next row.
 */
export function forRowGroups(c: Context, remaining: Gpr, name: string, body: (numRows: number) => void): void {
  const { a, sizes } = c;
  const { maxRows } = sizes.blocking;
  const full = a.here(`${name}_rows`);
  const rest = a.label(`${name}_rest`);
  const done = a.label(`${name}_done`);
  a.cmp(remaining, maxRows);
  a.jl(rest);
  body(maxRows);
  a.sub(remaining, maxRows);
  a.jmp(full);
  a.bind(rest);
  for (let rows = maxRows - 1; rows > 0; rows--) {
    if (!canRemain(sizes, rows)) continue;
    const next = a.label(`${name}_not_${rows}`);
    a.cmp(remaining, rows);
    a.jne(next);
    body(rows);
    a.jmp(done);
    a.bind(next);
  }
  a.bind(done);
}

/** Whether a tile's number of rows (a multiple of the group) can leave this rest. */
function canRemain({ group, tileTokens: most, blocking }: Sizes, rest: number): boolean {
  for (let tokens = 1; tokens <= most; tokens++) if ((tokens * group) % blocking.maxRows === rest) return true;
  return false;
}
