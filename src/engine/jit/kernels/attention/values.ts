// Owns the third phase of a chunk: the weighted sum of values of each row.
// Each sum is one chain of fused multiply-adds over the chunk's positions in ascending order, starting from 0.
import { mem } from '../../asm/operands.ts';
import { elementBytes, hasScales, partialRowBytes, tileElementBytes } from '../abi.ts';
import { loadElements } from '../kv-element.ts';
import { Lanes, NUM_LANES } from '../lanes.ts';
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

/** Leaves the sum over the chunk of weight * value for the merge, for every row of the group. */
export function emitValues(c: Context): void {
  const { blocking, shape } = c.sizes;
  forGroupRows(c, 'values', (numRows) =>
    emitColumns(c, numRows, vectorsBeside(blocking, numRows, shape.headDim / NUM_LANES)),
  );
}

/** All columns of the head dim, `numVectors` of 16 at a time. */
function emitColumns(c: Context, numRows: number, numVectors: number): void {
  const { a, sizes, locals } = c;
  const { shape, scratch } = sizes;
  const numBytes = numVectors * NUM_LANES * elementBytes(shape);
  const lanes = new Lanes(a, c.isa);
  const rows = Array.from({ length: numRows }, (_, row) => ({
    row,
    sums: Array.from({ length: numVectors }, () => lanes.take()),
  }));
  const values = Array.from({ length: numVectors }, () => lanes.take());
  const weight = lanes.takeSplat();
  withGprs(c, 7, (dim, sums, weights, tile, place, ahead, count) => {
    a.mov(dim, 0);
    a.mov(sums, locals.partial);
    const turn = a.here('columns');
    for (const row of rows) for (const sum of row.sums) lanes.zero(sum);
    a.mov(weights, locals.firstColumn);
    a.lea(weights, mem(c.scratch, scratch.scores, { index: weights, scale: 4 }));
    // Values stand behind the chunk's keys.
    a.mov(tile, locals.numTiles);
    a.lea(tile, mem(c.scratch, scratch.stream, { index: tile, scale: 8 }));
    const next = a.label('value_tiles');
    const rest = a.label('rest_positions');
    const finished = a.label('columns_done');
    const product = (position: number): void => {
      for (const [i, value] of values.entries()) {
        const at = mem(place, (position * shape.headDim + i * NUM_LANES) * elementBytes(shape));
        loadElements(a, lanes, shape.element, value, at);
      }
      for (const { row, sums: rowSums } of rows) {
        lanes.broadcast(weight, mem(weights, row * scratch.scoreStride + 4 * position));
        for (const [i, sum] of rowSums.entries()) lanes.op('vfmadd231ps', sum, values[i] ?? [], weight);
      }
    };
    const advance = (positions: number): void => {
      a.add(place, positions * shape.headDim * elementBytes(shape));
      a.add(weights, 4 * positions);
    };

    a.mov(count, locals.groupEnd);
    a.sub(count, locals.position);
    a.mov(locals.spare, count);
    a.bind(next);
    a.mov(place, mem(tile));
    a.add(place, dim);
    a.cmp(locals.spare, NUM_LANES);
    a.jl(rest);
    a.mov(ahead, mem(tile, 8 * TILES_AHEAD));
    if (hasScales(shape)) emitPrefetch(c, mem(ahead, tileElementBytes(shape)), LINE_BYTES);
    a.add(ahead, dim);
    a.mov(count, NUM_LANES / UNROLL);
    a.align(16);
    const loop = a.here('positions');
    for (let position = 0; position < UNROLL; position++) {
      emitPrefetch(c, mem(ahead, position * shape.headDim * elementBytes(shape)), numBytes);
      product(position);
    }
    a.add(ahead, UNROLL * shape.headDim * elementBytes(shape));
    advance(UNROLL);
    a.sub(count, 1);
    a.jne(loop);
    a.add(tile, 8);
    a.sub(locals.spare, NUM_LANES);
    a.jmp(next);

    a.bind(rest);
    a.mov(count, locals.spare);
    a.test(count, count);
    a.je(finished);
    const one = a.here('one_position');
    product(0);
    advance(1);
    a.sub(count, 1);
    a.jne(one);
    a.bind(finished);
    for (const { row, sums: rowSums } of rows) {
      for (const [i, sum] of rowSums.entries()) {
        lanes.store(mem(sums, row * partialRowBytes(shape) + i * WIDE_BYTES), sum);
      }
    }
    a.add(sums, numVectors * WIDE_BYTES);
    a.add(dim, numBytes);
    a.cmp(dim, shape.headDim * elementBytes(shape));
    a.jl(turn);
  });
}
