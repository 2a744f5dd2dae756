// Owns the first phase of a chunk: products of the keys, tile by tile, with a group of query rows.
// Each score is one chain of fused multiply-adds over the head dim in ascending order, starting from 0.
import { mem } from '../../asm/operands.ts';
import type { Gpr } from '../../asm/registers.ts';
import { elementBytes, hasScales } from '../abi.ts';
import { loadElements } from '../kv-element.ts';
import { Lanes, NUM_LANES, type Wide } from '../lanes.ts';
import {
  type Context,
  emitPrefetch,
  forGroupRows,
  LINE_BYTES,
  MAX_SIDES,
  scratchAt,
  TILES_AHEAD,
  vectorsBeside,
  WIDE_BYTES,
  withGprs,
} from './context.ts';

/** Elements of the head dim per turn of the loop. */
const UNROLL = 4;

/** Fills the group's scores from its tiles of keys. */
export function emitScores(c: Context): void {
  forGroupRows(c, 'scores', (numRows) => emitTiles(c, numRows, vectorsBeside(c.sizes.blocking, numRows, MAX_SIDES)));
}

interface Block {
  readonly numRows: number;
  readonly sides: number;
  /** Where the next tiles' addresses stand. */
  readonly tile: Gpr;
}

/** All tiles, `most` at a time, then half as many and so on. */
function emitTiles(c: Context, numRows: number, most: number): void {
  const { a, sizes, locals } = c;
  const { scratch } = sizes;
  withGprs(c, 2, (tile, out) => {
    a.lea(tile, scratchAt(c, scratch.stream));
    a.mov(out, locals.firstColumn);
    a.lea(out, mem(c.scratch, scratch.scores, { index: out, scale: 4 }));
    withGprs(c, 1, (left) => {
      a.mov(left, locals.groupTiles);
      a.mov(locals.spare, left);
    });
    for (let sides = most; sides >= 1; sides /= 2) {
      const skip = a.label('tiles_done');
      const loop = a.here('score_tiles');
      a.cmp(locals.spare, sides);
      a.jl(skip);
      const lanes = new Lanes(a, c.isa);
      const sums = emitDotProducts(c, lanes, { numRows, sides, tile });
      for (const [row, rowSums] of sums.entries()) {
        for (const [side, sum] of rowSums.entries()) {
          lanes.store(mem(out, row * scratch.scoreStride + side * WIDE_BYTES), sum);
        }
      }
      a.add(out, WIDE_BYTES * sides);
      a.add(tile, 8 * sides);
      a.sub(locals.spare, sides);
      if (sides === most) a.jmp(loop);
      a.bind(skip);
    }
  });
}

/** Products [row][side] of a few tiles with all rows. */
function emitDotProducts(c: Context, lanes: Lanes, { numRows, sides, tile }: Block): Wide[][] {
  const { a, sizes, locals } = c;
  const { scratch, shape } = sizes;
  const rowBytes = NUM_LANES * elementBytes(shape);
  const sums = Array.from({ length: numRows }, () => Array.from({ length: sides }, () => lanes.take()));
  const columns = Array.from({ length: sides }, (_, side) => ({ side, key: c.f.gpr(), part: lanes.take() }));
  const element = lanes.takeSplat();
  withGprs(c, 4, (query, count, ahead, turn) => {
    for (const { side, key } of columns) a.mov(key, mem(tile, 8 * side));
    a.imul3(query, locals.row, shape.headDim * 4);
    a.lea(query, mem(c.scratch, scratch.queries, { index: query }));
    for (const sum of sums.flat()) lanes.zero(sum);
    // In each turn one of the tiles ahead is fetched.
    a.mov(turn, 0);
    const turns = a.here('dot_turn');
    a.mov(ahead, mem(tile, 8 * TILES_AHEAD, { index: turn, scale: 8 }));
    a.mov(count, shape.headDim / UNROLL / sides);
    a.align(16);
    const loop = a.here('dot');
    emitPrefetch(c, mem(ahead), UNROLL * rowBytes * sides);
    for (let d = 0; d < UNROLL; d++) {
      for (const { key, part } of columns) loadElements(a, lanes, shape.element, part, mem(key, d * rowBytes));
      for (const [row, rowSums] of sums.entries()) {
        lanes.broadcast(element, mem(query, (row * shape.headDim + d) * 4));
        for (const { side, part } of columns) lanes.op('vfmadd231ps', rowSums[side] ?? [], part, element);
      }
    }
    for (const { key } of columns) a.add(key, UNROLL * rowBytes);
    a.add(ahead, UNROLL * rowBytes * sides);
    a.add(query, UNROLL * 4);
    a.sub(count, 1);
    a.jne(loop);
    if (hasScales(shape)) emitPrefetch(c, mem(ahead), LINE_BYTES);
    a.add(turn, 1);
    a.cmp(turn, sides);
    a.jl(turns);
  });
  for (const { side, key } of columns) {
    // The keys moved to the ends of their tiles, where the scales stand.
    if (hasScales(shape))
      for (const rowSums of sums) lanes.op('vmulps', rowSums[side] ?? [], rowSums[side] ?? [], mem(key));
    c.f.release(key);
  }
  return sums;
}
