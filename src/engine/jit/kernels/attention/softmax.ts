// Owns the second phase of a chunk: scores become weights.
import type { GprOrMem } from '../../asm/operands.ts';
import { type Mem, mem, ripMem } from '../../asm/operands.ts';
import type { Gpr, Vec } from '../../asm/registers.ts';
import { attentionField, hasScales, partialField, partialRowBytes, tileElementBytes } from '../abi.ts';
import { emitExp2, takeExp2Constants } from '../exp2.ts';
import { Lanes, lowest, NUM_LANES, type Wide } from '../lanes.ts';
import { type Context, emitTokenOf, LOWEST_MAX, MASKED, withGprs } from './context.ts';

/**
 * For each row with the visible columns [low, high) of the chunk:
 *   m = max score, w = 2^(score - m), 0 where not visible; l = sum of w in 16 lanes (column mod 16), then folded
 * A row that sees nothing of the chunk gets weights 0, m = LOWEST_MAX, l = 0.
 */
export function emitSoftmax(c: Context): void {
  const { a, locals } = c;
  const lanes = new Lanes(a, c.isa);
  const constants = takeExp2Constants(lanes);
  withGprs(c, 4, (row, low, high, zero) => {
    a.mov(row, 0);
    const rows = a.here('softmax_row');
    a.mov(high, locals.row);
    a.add(high, row);
    emitTokenOf(c, high);
    a.add(high, locals.firstPosition);
    a.sub(high, locals.chunkStart);
    a.add(high, 1);
    a.mov(low, high);
    a.sub(low, locals.window);
    a.mov(zero, 0);
    a.cmp(low, zero);
    a.cmovl(low, zero);
    a.cmp(high, locals.endColumn);
    a.cmovg(high, locals.endColumn);
    emitRow(c, lanes, constants, { row, low, high });
    a.add(row, 1);
    a.cmp(row, locals.groupRows);
    a.jl(rows);
  });
}

interface Row {
  readonly row: Gpr;
  /** Visible columns [low, high). */
  readonly low: Gpr;
  readonly high: Gpr;
}

/** A row's columns in whole vectors: [from, to) of those at `scores`; `column` runs over them. */
interface Columns {
  readonly scores: Gpr;
  readonly from: Gpr;
  readonly to: Gpr;
  readonly column: Gpr;
}

function emitRow(c: Context, lanes: Lanes, constants: readonly Wide[] | null, { row, low, high }: Row): void {
  const { a, sizes, locals } = c;
  const { scratch, shape } = sizes;
  withGprs(c, 4, (scores, from, to, column) => {
    const columns: Columns = { scores, from, to, column };
    const hidden = a.label('hidden');
    const done = a.label('row_done');
    a.imul3(scores, row, scratch.scoreStride);
    a.lea(scores, mem(c.scratch, scratch.scores, { index: scores }));
    a.cmp(low, high);
    a.jge(hidden);
    a.mov(from, low);
    a.and(from, -NUM_LANES);
    a.lea(to, mem(high, NUM_LANES - 1));
    a.and(to, -NUM_LANES);
    if (shape.hasSoftCap) emitSoftCap(c, lanes, columns);
    emitMasks(c, lanes, columns, low, high);
    const most = emitMaximum(c, lanes, columns);
    const sum = emitWeights(c, lanes, columns, most, constants);
    emitLeave(c, columns, row, lowest(most), lowest(sum));
    emitZeros(c, lanes, columns, locals.firstColumn, from);
    emitZeros(c, lanes, columns, to, locals.endColumn);
    a.jmp(done);

    a.bind(hidden);
    emitZeros(c, lanes, columns, locals.firstColumn, locals.endColumn);
    // Where the other branch leaves its results.
    lanes.load(most, lanes.constant(LOWEST_MAX));
    lanes.zero(sum);
    emitLeave(c, columns, row, lowest(most), lowest(sum));
    a.bind(done);
  });
}

/** Leaves the chunk's maximum and sum of weights for the merge. */
function emitLeave({ a, sizes, locals }: Context, { column }: Columns, row: Gpr, most: Vec, sum: Vec): void {
  const field = partialField(sizes.shape);
  a.imul3(column, row, partialRowBytes(sizes.shape));
  a.add(column, locals.partial);
  a.vmovss(mem(column, field.maximum), most);
  a.vmovss(mem(column, field.total), sum);
}

const at = ({ scores, column }: Columns): Mem => mem(scores, 0, { index: column, scale: 4 });

/** Runs `body` for the vectors of columns [from, to); maybe not at all. */
function forColumns(c: Context, column: Gpr, from: GprOrMem, to: GprOrMem, name: string, body: () => void): void {
  const { a } = c;
  const done = a.label(`${name}_done`);
  a.mov(column, from);
  a.cmp(column, to);
  a.jge(done);
  const loop = a.here(name);
  body();
  a.add(column, NUM_LANES);
  a.cmp(column, to);
  a.jl(loop);
  a.bind(done);
}

function emitZeros(c: Context, lanes: Lanes, columns: Columns, from: GprOrMem, to: GprOrMem): void {
  const zero = lanes.takeSplat();
  lanes.zero(zero);
  forColumns(c, columns.column, from, to, 'hide', () => lanes.store(at(columns), zero));
  lanes.release(zero);
}

/** score = cap * tanh(score), with tanh(x) = 1 - 2 / (e^2x + 1); |2x log2(e)| is cut where tanh is 1 as a float. */
function emitSoftCap(c: Context, lanes: Lanes, columns: Columns): void {
  const [x, n, power, cap] = [lanes.take(), lanes.take(), lanes.take(), lanes.takeSplat()];
  lanes.broadcast(cap, mem(c.op, attentionField.softCap));
  forColumns(c, columns.column, columns.from, columns.to, 'soft_cap', () => {
    lanes.load(x, at(columns));
    lanes.op('vmulps', x, x, lanes.constant(2 * Math.LOG2E));
    lanes.op('vminps', x, x, lanes.constant(30));
    emitExp2(lanes, x, n, power);
    lanes.op('vaddps', x, x, lanes.constant(1));
    lanes.load(n, lanes.constant(2));
    lanes.op('vdivps', n, n, x);
    lanes.load(x, lanes.constant(1));
    lanes.op('vsubps', x, x, n);
    lanes.op('vmulps', x, x, cap);
    lanes.store(at(columns), x);
  });
  lanes.release(x, n, power, cap);
}

/** MASKED for the columns before `low` in the first vector, and from `high` on in the last. */
function emitMasks(c: Context, lanes: Lanes, columns: Columns, low: Gpr, high: Gpr): void {
  const { a } = c;
  const { from, to, column, scores } = columns;
  const all = new Int32Array(NUM_LANES).fill(-1);
  const none = new Int32Array(NUM_LANES);
  // Read at -n from `below` for "the first n lanes", at -n from `above` for all but those.
  const table = a.constant(Int32Array.from([...all, ...none, ...all]));
  const [below, above] = [NUM_LANES * 4, NUM_LANES * 8];
  const [kept, hidden] = [lanes.take(), lanes.take()];
  const apply = (maskOffset: number, place: Mem): void => {
    lanes.load(kept, mem(column, maskOffset));
    lanes.op('vandnps', hidden, kept, lanes.constant(MASKED));
    lanes.op('vandps', kept, kept, place);
    lanes.op('vorps', kept, kept, hidden);
    lanes.store(place, kept);
  };
  withGprs(c, 1, (count) => {
    const address = (first: Gpr, second: Gpr): void => {
      a.mov(count, first);
      a.sub(count, second);
      a.shl(count, 2);
      a.lea(column, ripMem(table));
      a.sub(column, count);
    };
    address(low, from);
    apply(above, mem(scores, 0, { index: from, scale: 4 }));
    // high - (to - 16) lanes of the last vector are visible.
    address(high, to);
    apply(below - NUM_LANES * 4, mem(scores, -NUM_LANES * 4, { index: to, scale: 4 }));
  });
  lanes.release(kept, hidden);
}

/** The largest score, at least LOWEST_MAX, in every lane. */
function emitMaximum(c: Context, lanes: Lanes, columns: Columns): Wide {
  const [most, temporary] = [lanes.take(), lanes.take()];
  lanes.load(most, lanes.constant(LOWEST_MAX));
  forColumns(c, columns.column, columns.from, columns.to, 'maximum', () => {
    lanes.op('vmaxps', most, most, at(columns));
  });
  lanes.spread(most, lanes.fold('vmaxps', most, temporary));
  lanes.release(temporary);
  return most;
}

/** Scores become weights; returns their sum. Weights of int8 values take on the values' scales, after the sum. */
function emitWeights(c: Context, lanes: Lanes, columns: Columns, most: Wide, constants: readonly Wide[] | null): Wide {
  const { a, sizes, locals } = c;
  const { shape, scratch } = sizes;
  const [sum, x, n, power] = [lanes.take(), lanes.take(), lanes.take(), lanes.take()];
  lanes.zero(sum);
  withGprs(c, hasScales(shape) ? 2 : 0, (tile, values) => {
    if (tile) {
      a.mov(tile, columns.from);
      a.sub(tile, locals.firstColumn);
      a.shr(tile, Math.log2(NUM_LANES));
      a.add(tile, locals.numTiles);
    }
    forColumns(c, columns.column, columns.from, columns.to, 'weight', () => {
      lanes.load(x, at(columns));
      lanes.op('vsubps', x, x, most);
      emitExp2(lanes, x, n, power, constants);
      lanes.op('vaddps', sum, sum, x);
      if (tile && values) {
        a.mov(values, mem(c.scratch, scratch.stream, { index: tile, scale: 8 }));
        lanes.op('vmulps', x, x, mem(values, tileElementBytes(shape)));
        a.add(tile, 1);
      }
      lanes.store(at(columns), x);
    });
  });
  lanes.spread(sum, lanes.fold('vaddps', sum, x));
  lanes.release(x, n, power);
  return sum;
}
