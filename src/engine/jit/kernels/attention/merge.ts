// Owns how a chunk joins those before it: always one by one, from left to right.
import { type GprOrMem, type Imm, type Mem, mem } from '../../asm/operands.ts';
import { partialField, partialRowBytes } from '../abi.ts';
import { emitExp2 } from '../exp2.ts';
import { Lanes, lowest, NUM_LANES } from '../lanes.ts';
import { type Context, rowValue, withGprs } from './context.ts';

/**
 * For each of `numRows` rows from `row` on, with M, L, A of the chunks so far and m, l, a of the chunk in `partial`:
 *   M' = max(M, m), keep = 2^(M - M'), add = 2^(m - M'), L = L keep + l add, A = A keep + a add
 * A chunk of which the row sees nothing (m = LOWEST_MAX, l = 0, a = 0) changes no bit.
 */
export function emitMerge(c: Context, firstRow: GprOrMem | Imm, numRows: Mem): void {
  const { a, sizes, locals } = c;
  const { scratch, shape } = sizes;
  const field = partialField(shape);
  const lanes = new Lanes(a, c.isa);
  const [keep, add, maximum, total] = [lanes.take(), lanes.take(), lanes.take(), lanes.take()];
  const [sum, part] = [lanes.take(), lanes.take()];
  withGprs(c, 4, (row, end, chunk, sums) => {
    a.mov(row, firstRow);
    a.mov(end, row);
    a.add(end, numRows);
    a.mov(chunk, locals.partial);
    a.imul3(sums, row, shape.headDim * 4);
    a.lea(sums, mem(c.scratch, scratch.sums, { index: sums }));
    const rows = a.here('merge_row');
    lanes.broadcast(keep, rowValue(c, scratch.maxima, row));
    lanes.broadcast(add, mem(chunk, field.maximum));
    lanes.op('vmaxps', maximum, keep, add);
    a.vmovss(rowValue(c, scratch.maxima, row), lowest(maximum));
    lanes.op('vsubps', keep, keep, maximum);
    lanes.op('vsubps', add, add, maximum);
    emitExp2(lanes, keep, sum, part);
    emitExp2(lanes, add, sum, part);
    lanes.broadcast(total, rowValue(c, scratch.totals, row));
    lanes.op('vmulps', total, total, keep);
    lanes.broadcast(part, mem(chunk, field.total));
    lanes.op('vfmadd231ps', total, part, add);
    a.vmovss(rowValue(c, scratch.totals, row), lowest(total));
    for (let d = 0; d < shape.headDim; d += NUM_LANES) {
      lanes.op('vmulps', sum, keep, mem(sums, 4 * d));
      lanes.op('vfmadd231ps', sum, add, mem(chunk, 4 * d));
      lanes.store(mem(sums, 4 * d), sum);
    }
    a.add(chunk, partialRowBytes(shape));
    a.add(sums, shape.headDim * 4);
    a.add(row, 1);
    a.cmp(row, end);
    a.jl(rows);
  });
}
