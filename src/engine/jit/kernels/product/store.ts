// Owns the end of a tile: totals become outputs, with bias, gate, or added to what was there.
// Legend: C rows of x in the tile.
import { type Mem, mem } from '../../asm/operands.ts';
import { type Gpr, rax, rsp, type Vec, xmm } from '../../asm/registers.ts';
import { emitGate, type Gate } from './gate.ts';
import { PART_ROWS, PARTS, type TileCode } from './registers.ts';
import { STRIP_ROWS } from './layout.ts';

const FLOAT_BYTES = 4;
const ROW_BYTES = STRIP_ROWS * FLOAT_BYTES;

/** What a tile leaves. */
export interface Totals {
  /** [2 c + part] */
  readonly totals: readonly Vec[];
  /** Factor by which they are too large. */
  readonly totalScale: number;
  readonly temporaries: readonly Vec[];
}

/** Where outputs go. */
export interface OutPlaces {
  /** Output of the tile's first row and the strip's first column; ends C rows further. */
  readonly out: Gpr;
  readonly outStride: Gpr;
  /** Columns from the strip's first on. */
  readonly columnsLeft: Gpr;
  /** All columns. */
  readonly numColumns: Mem;
  /** Address of the bias, 0: none. */
  readonly bias: Mem;
  /** Nonzero: outputs are added to what is there. */
  readonly adds: Mem;
  /** Memory on the stack for a strip of outputs of each row. */
  readonly scratch: Mem;
}

export const scratchBytes = (C: number): number => C * ROW_BYTES;

/** Columns of the outputs of a strip. */
export const outColumns = (gate: Gate | null): number => (gate ? PART_ROWS : STRIP_ROWS);

export function emitStore(t: TileCode, { totals, totalScale, temporaries }: Totals, gate: Gate | null, to: OutPlaces) {
  const { a } = t;
  const { x0: target, x3: bias, block: source, count } = t.registers;
  const { out, outStride, columnsLeft } = to;
  const C = totals.length / PARTS;
  if (totalScale !== 1) for (const total of totals) a.vmulps(total, total, t.float(1 / totalScale));
  /** By row, then part. */
  const outputs = Array.from({ length: C }, (_, c) => totals.slice(PARTS * c, PARTS * (c + 1)));
  if (gate) {
    for (const row of outputs) emitGate(t, gate, row[0]!, row.pop()!, temporaries);
  }
  const [ragged, unbiased, unadded, done] = [
    a.label('ragged'),
    a.label('unbiased'),
    a.label('unadded'),
    a.label('stored'),
  ];
  a.mov(target, out);
  // The bias of the strip's first column.
  a.mov(bias, to.numColumns);
  a.sub(bias, columnsLeft);
  a.shl(bias, Math.log2(FLOAT_BYTES));
  a.add(bias, to.bias);
  a.cmp(columnsLeft, outColumns(gate));
  a.jl(ragged);
  a.cmp(to.bias, 0);
  a.je(unbiased);
  for (const row of outputs) {
    for (const [part, output] of row.entries()) a.vaddps(output, output, t.lanePlace(bias, 0, part, FLOAT_BYTES));
  }
  a.bind(unbiased);
  a.cmp(to.adds, 0);
  a.je(unadded);
  for (const row of outputs) {
    for (const [part, output] of row.entries()) a.vaddps(output, output, t.lanePlace(target, 0, part, FLOAT_BYTES));
    a.add(target, outStride);
  }
  a.mov(target, out);
  a.bind(unadded);
  for (const row of outputs) {
    for (const [part, output] of row.entries()) a.vmovups(t.lanePlace(target, 0, part, FLOAT_BYTES), output);
    a.add(target, outStride);
  }
  a.jmp(done);

  // A last strip that is not full goes through memory, so that nothing behind its columns is read or written.
  a.bind(ragged);
  for (const [c, row] of outputs.entries()) {
    for (const [part, output] of row.entries()) {
      a.vmovups(t.lanePlace(rsp, to.scratch.disp + c * ROW_BYTES, part, FLOAT_BYTES), output);
    }
  }
  const rowsLeft = t.registers.header;
  const value = xmm(0);
  a.lea(source, to.scratch);
  a.mov(rowsLeft, C);
  const nextRow = a.here('ragged_row');
  for (let part = 0; part < outColumns(gate) / PART_ROWS; part++) {
    const [next, partDone] = [a.label('ragged_column'), a.label('ragged_part')];
    const [isUnbiased, isUnadded] = [a.label('column_unbiased'), a.label('column_unadded')];
    const at = (base: Gpr) => mem(base, 0, { index: count, scale: FLOAT_BYTES });
    if (t.registers.firstLane) a.mov(count, t.registers.firstLane);
    else a.mov(count, 0);
    a.add(count, part * PART_ROWS);
    a.bind(next);
    a.cmp(count, columnsLeft);
    a.jge(partDone);
    a.vmovss(value, at(source));
    a.cmp(to.bias, 0);
    a.je(isUnbiased);
    a.vaddss(value, value, at(bias));
    a.bind(isUnbiased);
    a.cmp(to.adds, 0);
    a.je(isUnadded);
    a.vaddss(value, value, at(target));
    a.bind(isUnadded);
    a.vmovss(at(target), value);
    a.add(count, 1);
    a.mov(rax, count);
    a.and(rax, t.lanes - 1);
    a.jne(next);
    a.bind(partDone);
  }
  a.add(target, outStride);
  a.add(source, ROW_BYTES);
  a.sub(rowsLeft, 1);
  a.jne(nextRow);
  a.bind(done);
  a.mov(out, target);
}
