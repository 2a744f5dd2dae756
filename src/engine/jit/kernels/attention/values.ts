// Owns the third phase of a chunk: the weighted sum of values of each row.
// Each sum is one chain of fused multiply-adds over the chunk's positions in ascending order, starting from 0.
import { type Mem, mem } from '../../asm/operands.ts';
import { elementBytes, hasScales, partialRowBytes, tileElementBytes } from '../abi.ts';
import { loadElements } from '../kv-element.ts';
import { Lanes, NUM_LANES, type Wide } from '../lanes.ts';
import { CHUNK_POSITIONS } from '../tiles.ts';
import {
  type Context,
  emitPrefetch,
  forGroupRows,
  LINE_BYTES,
  TILES_AHEAD,
  vectorsBeside,
  WIDE_BYTES,
  withGprs,
} from './context.ts';

/** Positions per turn of the loop over a whole tile. */
const UNROLL = 4;
/** Tiles of a block, where the head dim takes several passes. */
const BLOCK_TILES = 8;

/** Leaves the sum over the chunk of weight * value for the merge, for every row of the group. */
export function emitValues(c: Context): void {
  const { blocking, shape } = c.sizes;
  forGroupRows(c, 'values', (numRows) =>
    emitColumns(c, numRows, vectorsBeside(blocking, numRows, shape.headDim / NUM_LANES)),
  );
}

/**
 * All columns of the head dim, `numVectors` of 16 at a time. Where that takes several passes, positions are cut into
 * blocks, so that a pass finds in the caches what the one before it read, and the passes share the fetching of the next
 * block; sums wait in memory between blocks, which changes no bit.
 */
function emitColumns(c: Context, numRows: number, numVectors: number): void {
  const { a, sizes, locals } = c;
  const { shape, scratch } = sizes;
  const [numBytes, tokenBytes] = [elementBytes(shape), shape.headDim * elementBytes(shape)];
  const numPasses = shape.headDim / NUM_LANES / numVectors;
  const blockTiles = numPasses > 1 ? BLOCK_TILES : CHUNK_POSITIONS / NUM_LANES;
  const lanes = new Lanes(a, c.isa);
  const rows = Array.from({ length: numRows }, (_, row) => ({
    row,
    sums: Array.from({ length: numVectors }, () => lanes.take()),
  }));
  const values = Array.from({ length: numVectors }, () => lanes.take());
  const weight = lanes.takeSplat();
  withGprs(c, 9, (dim, sums, weights, tile, place, ahead, nextAhead, left, count) => {
    const eachSum = (use: (sum: Wide, place: Mem) => void): void => {
      for (const { row, sums: rowSums } of rows) {
        for (const [i, sum] of rowSums.entries()) use(sum, mem(sums, row * partialRowBytes(shape) + i * WIDE_BYTES));
      }
    };
    const product = (position: number): void => {
      for (const [i, value] of values.entries()) {
        loadElements(a, lanes, shape.element, value, mem(place, position * tokenBytes + i * NUM_LANES * numBytes));
      }
      for (const { row, sums: rowSums } of rows) {
        lanes.broadcast(weight, mem(weights, row * scratch.scoreStride + 4 * position));
        for (const [i, sum] of rowSums.entries()) lanes.op('vfmadd231ps', sum, values[i] ?? [], weight);
      }
    };
    const advance = (positions: number): void => {
      a.add(place, positions * tokenBytes);
      a.add(weights, 4 * positions);
    };
    const fetchNext = (): void => {
      a.mov(ahead, mem(nextAhead));
      a.add(nextAhead, 8);
      if (hasScales(shape)) emitPrefetch(c, mem(ahead, tileElementBytes(shape)), LINE_BYTES);
    };

    a.mov(locals.blockStart, 0);
    const blocks = a.here('value_block');
    // Values stand behind the chunk's keys.
    a.mov(nextAhead, locals.numTiles);
    a.add(nextAhead, locals.blockStart);
    a.lea(nextAhead, mem(c.scratch, scratch.stream, { index: nextAhead, scale: 8 }));
    a.add(nextAhead, 8 * (numPasses > 1 ? BLOCK_TILES : TILES_AHEAD));
    fetchNext();
    if (numPasses > 1) a.mov(locals.spare, numPasses);
    a.mov(dim, 0);
    a.mov(sums, locals.partial);
    const pass = a.here('value_pass');
    const [load, ready] = [a.label('load_sums'), a.label('sums_ready')];
    if (numPasses > 1) {
      a.cmp(locals.blockStart, 0);
      a.jne(load);
    }
    eachSum((sum) => lanes.zero(sum));
    if (numPasses > 1) {
      a.jmp(ready);
      a.bind(load);
      eachSum((sum, at) => lanes.load(sum, at));
      a.bind(ready);
    }
    a.mov(tile, locals.blockStart);
    a.mov(weights, tile);
    a.shl(weights, Math.log2(NUM_LANES));
    a.mov(left, locals.groupEnd);
    a.sub(left, locals.position);
    a.sub(left, weights);
    a.mov(count, blockTiles * NUM_LANES);
    a.cmp(left, count);
    a.cmovg(left, count);
    a.add(weights, locals.firstColumn);
    a.lea(weights, mem(c.scratch, scratch.scores, { index: weights, scale: 4 }));
    a.add(tile, locals.numTiles);
    a.lea(tile, mem(c.scratch, scratch.stream, { index: tile, scale: 8 }));

    const [tiles, rest, finished] = [a.here('value_tile'), a.label('rest'), a.label('pass_done')];
    a.mov(place, mem(tile));
    a.add(place, dim);
    a.cmp(left, NUM_LANES);
    a.jl(rest);
    a.mov(count, NUM_LANES / UNROLL);
    a.align(16);
    const loop = a.here('positions');
    emitPrefetch(c, mem(ahead), UNROLL * numVectors * NUM_LANES * numBytes);
    for (let position = 0; position < UNROLL; position++) product(position);
    a.add(ahead, UNROLL * numVectors * NUM_LANES * numBytes);
    advance(UNROLL);
    a.sub(count, 1);
    a.jne(loop);
    a.add(tile, 8);
    a.sub(left, NUM_LANES);
    if (numPasses > 1) {
      a.sub(locals.spare, 1);
      a.jne(tiles);
      a.mov(locals.spare, numPasses);
    }
    fetchNext();
    a.jmp(tiles);

    a.bind(rest);
    a.test(left, left);
    a.je(finished);
    const one = a.here('one_position');
    product(0);
    advance(1);
    a.sub(left, 1);
    a.jne(one);
    a.bind(finished);
    eachSum((sum, at) => lanes.store(at, sum));
    if (numPasses === 1) return;
    a.add(sums, numVectors * WIDE_BYTES);
    a.add(dim, numVectors * NUM_LANES * numBytes);
    a.cmp(dim, tokenBytes);
    a.jl(pass);
    a.mov(tile, locals.blockStart);
    a.add(tile, BLOCK_TILES);
    a.mov(locals.blockStart, tile);
    a.cmp(tile, locals.groupTiles);
    a.jl(blocks);
  });
}
