// Owns the third phase of a chunk: the weighted sum of values of each row.
// Each sum is one chain of fused multiply-adds over the chunk's positions in ascending order, starting from 0.
import { mem } from '../../asm/operands.ts';
import type { Gpr } from '../../asm/registers.ts';
import { partialRowBytes } from '../abi.ts';
import { Lanes, NUM_LANES } from '../lanes.ts';
import { type Context, emitPrefetch, forRowGroups, withGprs } from './context.ts';

/** Leaves the sum over the chunk of weight * value for the merge, for every row. */
export function emitValues(c: Context): void {
  const { a, sizes, locals } = c;
  const { shape } = sizes;
  withGprs(c, 3, (row, sums, remaining) => {
    a.mov(row, 0);
    a.mov(sums, locals.partial);
    a.mov(remaining, locals.numRows);
    forRowGroups(c, remaining, 'value', (numRows) => {
      emitRows(c, numRows, row, sums);
      a.add(row, numRows);
      // The columns moved `sums` by the head dim.
      a.add(sums, numRows * partialRowBytes(shape) - shape.headDim * 4);
    });
  });
}

/** Columns of the head dim, in 16s, that fit beside `numRows`: a divisor of all, so that every turn is alike. */
function columnsAtOnce(c: Context, numRows: number): number {
  const all = c.sizes.shape.headDim / NUM_LANES;
  // Beside the accumulators: one value of 16 lanes and one broadcast.
  const { numRegisters, partsPerWide } = c.sizes.blocking;
  let columns = Math.min(all, Math.floor(((numRegisters - 1) / partsPerWide - 1) / numRows));
  while (all % columns !== 0) columns--;
  return columns;
}

function emitRows(c: Context, numRows: number, row: Gpr, sums: Gpr): void {
  const { a, sizes, locals } = c;
  const { shape, scratch } = sizes;
  const columns = columnsAtOnce(c, numRows);
  const lanes = new Lanes(a, c.isa);
  const accumulators = Array.from({ length: numRows }, () => Array.from({ length: columns }, () => lanes.take()));
  const value = lanes.take();
  const weight = lanes.takeSplat();
  const numTurns = shape.headDim / NUM_LANES / columns;
  withGprs(c, 6, (dim, weights, tile, place, count, ahead) => {
    a.mov(dim, locals.valueOffset);
    a.mov(locals.spare, numTurns);
    const turn = a.here('columns');
    for (const sum of accumulators.flat()) lanes.zero(sum);
    a.imul3(weights, row, scratch.scoreStride);
    a.lea(weights, mem(c.scratch, scratch.scores, { index: weights }));
    a.mov(count, locals.firstColumn);
    a.lea(weights, mem(weights, 0, { index: count, scale: 4 }));
    a.mov(tile, 0);
    const tiles = a.here('tile');
    a.mov(place, mem(c.scratch, scratch.tiles, { index: tile, scale: 8 }));
    a.add(place, dim);
    a.mov(ahead, mem(c.scratch, scratch.tiles + 8, { index: tile, scale: 8 }));
    a.add(ahead, dim);
    // Positions left in the chunk, at most a tile.
    a.mov(count, tile);
    a.shl(count, 4);
    a.neg(count);
    a.add(count, locals.chunkEnd);
    a.sub(count, locals.position);
    const product = (position: number): void => {
      for (let column = 0; column < columns; column++) {
        const at = mem(place, position * sizes.tokenBytes + column * NUM_LANES * sizes.elementBytes);
        if (shape.element === 'f16') lanes.loadHalf(value, at);
        else lanes.load(value, at);
        for (let r = 0; r < numRows; r++) {
          lanes.broadcast(weight, mem(weights, r * scratch.scoreStride + 4 * position));
          lanes.op('vfmadd231ps', accumulators[r]?.[column] ?? [], value, weight);
        }
      }
    };
    const one = a.label('one_position');
    const last = a.label('last_tile');
    const next = a.label('tile_done');
    a.cmp(count, NUM_LANES);
    a.jl(last);
    a.mov(count, NUM_LANES / 4);
    const four = a.here('four_positions');
    for (let position = 0; position < 4; position++) {
      emitPrefetch(c, mem(ahead, position * sizes.tokenBytes), columns * NUM_LANES * sizes.elementBytes);
      product(position);
    }
    a.add(ahead, 4 * sizes.tokenBytes);
    a.add(place, 4 * sizes.tokenBytes);
    a.add(weights, 16);
    a.sub(count, 1);
    a.jne(four);
    a.jmp(next);

    a.bind(last);
    a.bind(one);
    product(0);
    a.add(place, sizes.tokenBytes);
    a.add(weights, 4);
    a.sub(count, 1);
    a.jne(one);

    a.bind(next);
    a.add(tile, 1);
    a.cmp(tile, locals.numTiles);
    a.jl(tiles);
    for (const [r, wides] of accumulators.entries()) {
      for (const [column, sum] of wides.entries()) {
        lanes.store(mem(sums, r * partialRowBytes(shape) + column * NUM_LANES * 4), sum);
      }
    }
    a.add(sums, columns * NUM_LANES * 4);
    a.add(dim, columns * NUM_LANES * sizes.elementBytes);
    a.sub(locals.spare, 1);
    a.jne(turn);
  });
}
