// Owns the first phase of a chunk: keys turned, tile by tile, and their products with all query rows of the tile.
// Each score is one chain of fused multiply-adds over the head dim in ascending order, starting from 0.
import { mem } from '../../asm/operands.ts';
import type { Gpr } from '../../asm/registers.ts';
import { Lanes, NUM_LANES } from '../lanes.ts';
import { type Context, forRowGroups, scratchAt, sidesFor, WIDE_BYTES, withGprs } from './context.ts';
import { emitTurnedTile, sideBytes, type TurnedKeys } from './transpose.ts';

/** Fills the chunk's scores from the tiles listed in scratch. A decoded token's few rows have a form of their own. */
export function emitScores(c: Context): void {
  const { a, sizes, locals } = c;
  const { shape, blocking, group } = sizes;
  const done = a.label('scores_done');
  if (group <= blocking.maxRows) {
    const many = a.label('many_rows');
    a.cmp(locals.numRows, group);
    a.jne(many);
    // Each turned key is used once: halves are quicker to store than floats.
    emitTiles(c, { sides: sidesFor(blocking, group), element: shape.element }, group);
    a.jmp(done);
    a.bind(many);
  }
  emitTiles(c, { sides: sidesFor(blocking, blocking.maxRows), element: 'f32' }, null);
  a.bind(done);
}

/** All tiles of the chunk, some at a time, for this number of rows; null: for any number. */
function emitTiles(c: Context, keys: TurnedKeys, numRows: number | null): void {
  const { a, sizes, locals } = c;
  const { scratch } = sizes;
  withGprs(c, 2, (tile, column) => {
    a.mov(tile, 0);
    a.mov(column, locals.firstColumn);
    const loop = a.here('score_tiles');
    for (let side = 0; side < keys.sides; side++) {
      const skip = a.label('no_tile');
      withGprs(c, 2, (index, ahead) => {
        a.lea(index, mem(tile, side));
        // A missing tile leaves old keys there: its columns lie behind the last and are never read.
        if (side > 0) {
          a.cmp(index, locals.numTiles);
          a.jge(skip);
        }
        a.mov(ahead, mem(c.scratch, scratch.tiles + 8 * keys.sides, { index, scale: 8 }));
        a.mov(index, mem(c.scratch, scratch.tiles, { index, scale: 8 }));
        a.add(ahead, locals.keyOffset);
        a.add(index, locals.keyOffset);
        emitTurnedTile(c, keys, { key: index, ahead, side });
      });
      a.bind(skip);
    }
    emitTileScores(c, keys, numRows, column);
    a.add(column, NUM_LANES * keys.sides);
    a.add(tile, keys.sides);
    a.cmp(tile, locals.numTiles);
    a.jl(loop);
  });
}

/** Scores of the turned keys with the query rows, into columns `column` and following. */
function emitTileScores(c: Context, keys: TurnedKeys, numRows: number | null, column: Gpr): void {
  const { a, sizes, locals } = c;
  const { scratch, shape } = sizes;
  withGprs(c, 4, (query, out, key, count) => {
    const registers = { query, out, key, count };
    a.lea(query, scratchAt(c, scratch.queries));
    a.lea(out, mem(c.scratch, scratch.scores, { index: column, scale: 4 }));
    if (numRows !== null) {
      emitDotProducts(c, keys, numRows, registers);
      return;
    }
    withGprs(c, 1, (remaining) => {
      a.mov(remaining, locals.numRows);
      forRowGroups(c, remaining, 'score', (rows) => {
        emitDotProducts(c, keys, rows, registers);
        // The products moved `query` by one row.
        if (rows > 1) a.add(query, (rows - 1) * shape.headDim * 4);
        a.add(out, rows * scratch.scoreStride);
      });
    });
  });
}

/** Elements of the head dim per turn of the loop. */
const UNROLL = 4;

function emitDotProducts(
  c: Context,
  keys: TurnedKeys,
  numRows: number,
  { query, out, key, count }: Readonly<Record<'query' | 'out' | 'key' | 'count', Gpr>>,
): void {
  const { a, isa, sizes } = c;
  const { scratch } = sizes;
  const { headDim } = sizes.shape;
  const lanes = new Lanes(a, isa);
  const sums = Array.from({ length: numRows }, () => Array.from({ length: keys.sides }, () => lanes.take()));
  const parts = Array.from({ length: keys.sides }, () => lanes.take());
  const element = lanes.takeSplat();
  for (const sum of sums.flat()) lanes.zero(sum);
  a.lea(key, scratchAt(c, scratch.keys));
  a.mov(count, headDim / UNROLL);
  a.align(16);
  const loop = a.here('dot');
  for (let d = 0; d < UNROLL; d++) {
    for (const [side, part] of parts.entries()) {
      const place = mem(key, (d * keys.sides + side) * sideBytes(keys));
      if (keys.element === 'f16') lanes.loadHalf(part, place);
      else lanes.load(part, place);
    }
    for (const [row, rowSums] of sums.entries()) {
      lanes.broadcast(element, mem(query, (row * headDim + d) * 4));
      for (const [side, sum] of rowSums.entries()) lanes.op('vfmadd231ps', sum, parts[side] ?? [], element);
    }
  }
  a.add(key, UNROLL * keys.sides * sideBytes(keys));
  a.add(query, UNROLL * 4);
  a.sub(count, 1);
  a.jne(loop);
  for (const [row, rowSums] of sums.entries()) {
    for (const [side, sum] of rowSums.entries()) {
      lanes.store(mem(out, row * scratch.scoreStride + side * WIDE_BYTES), sum);
    }
  }
}
