// Owns how ops on rows are laid out and cut into pieces: a few rows each, or, where rows are long, chunks of columns.
import type { Address } from '../../../ffi/koffi.ts';
import type { Assembler } from '../../asm/assembler.ts';
import { mem } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, rax, rdx } from '../../asm/registers.ts';
import { NUM_LANES } from '../lanes.ts';
import { emitOp, OP_FIELDS, type OpBlock, type OpFrame, opField, opMem } from '../op.ts';

/** Fields of an op block, 8 bytes each: addresses, and distances of rows in bytes. */
export interface OpLayout<Name extends string> {
  readonly field: Readonly<Record<Name, number>>;
  readonly bytes: number;
}

export function opLayout<Name extends string>(...names: readonly Name[]): OpLayout<Name> {
  const field = Object.fromEntries(names.map((name, i) => [name, OP_FIELDS + 8 * i])) as Record<Name, number>;
  return { field, bytes: Math.ceil((OP_FIELDS + 8 * names.length) / 64) * 64 };
}

/** `rows`: see `opField.rows`. */
export function writeRowOp<Name extends string>(
  layout: OpLayout<Name>,
  block: OpBlock,
  values: Readonly<Record<NoInfer<Name> | 'rows', Address>>,
): void {
  block.set(opField.rows, values.rows);
  for (const name of Object.keys(layout.field) as Name[]) block.set(layout.field[name], values[name]);
}

/** Floats of a piece: 0.3 to 3 us of work, some ten times what claiming it costs. */
const PIECE_FLOATS = 4096;

export interface Cut {
  /** A power of two. */
  readonly rowsPerPiece: number;
  readonly numChunks: number;
}

/** Cuts rows of `rowFloats`, whose chunks of at most `chunkFloats` are independent. */
export function cutRows(rowFloats: number, chunkFloats = rowFloats): Cut {
  const numChunks = Math.ceil(rowFloats / chunkFloats);
  const rows = Math.max(1, Math.floor((PIECE_FLOATS * numChunks) / rowFloats));
  return { rowsPerPiece: 2 ** Math.floor(Math.log2(rows)), numChunks };
}

/**
 * Emits an op. `prepare` runs once per call and emits what rows share; `emitRow` emits the work on one row, or on a chunk
 * of it, and leaves `row` and `chunk` as they are. rax is its to change.
 */
export function emitRowOp<Shared>(
  name: string,
  { rowsPerPiece, numChunks }: Cut,
  prepare: (o: OpFrame) => Shared,
  emitRow: (o: OpFrame, shared: Shared, row: Gpr, chunk: Gpr | null) => void,
): MachineCode {
  const shift = Math.log2(rowsPerPiece);
  let shared: Shared;
  return emitOp(
    name,
    (o) => {
      const { a, numRows } = o;
      shared = prepare(o);
      a.mov(rax, numRows);
      a.add(rax, rowsPerPiece - 1);
      if (shift > 0) a.shr(rax, shift);
      if (numChunks > 1) a.imul3(rax, rax, numChunks);
    },
    (o) => {
      const { a, f, numRows, firstRow } = o;
      const chunk = numChunks > 1 ? f.take(rdx) : null;
      const [row, end] = [f.gpr(), f.gpr()];
      if (chunk) {
        a.mov(chunk, 0);
        a.mov(row, numChunks);
        a.div(row);
      }
      a.mov(row, rax);
      if (shift > 0) a.shl(row, shift);
      a.mov(rax, numRows);
      a.lea(end, mem(row, rowsPerPiece));
      a.cmp(end, rax);
      a.cmovg(end, rax);
      a.mov(rax, firstRow);
      a.add(row, rax);
      a.add(end, rax);
      const loop = a.here('row');
      emitRow(o, shared, row, chunk);
      a.add(row, 1);
      a.cmp(row, end);
      a.jl(loop);
      f.release(row, end, ...(chunk ? [chunk] : []));
    },
  );
}

/** dst = base + row * distance, both fields of the op. */
export function emitRowPointer({ a, op }: OpFrame, dst: Gpr, row: Gpr, base: number, distance: number): void {
  a.mov(dst, row);
  a.imul(dst, opMem(op, distance));
  a.add(dst, opMem(op, base));
}

/** Vectors of 16 floats that a loop handles at a time. */
const UNROLL = 4;
/** Rows of no more floats are handled without a loop. */
const MAX_STRAIGHT = 256;

/**
 * Emits code for every 16 floats of `numFloats`: `body` gets their distance from where `pointers` stand, in floats, and
 * their number in turn, modulo 4. Pointers to floats move in the course.
 */
export function emitEach16(
  a: Assembler,
  numFloats: number,
  count: Gpr,
  pointers: readonly Gpr[],
  body: (at: number, turn: number) => void,
): void {
  const numVectors = numFloats / NUM_LANES;
  const numLoops = numFloats <= MAX_STRAIGHT ? 0 : Math.floor(numVectors / UNROLL);
  if (numLoops > 0) {
    a.mov(count, numLoops);
    const loop = a.here('vectors');
    for (let i = 0; i < UNROLL; i++) body(i * NUM_LANES, i);
    for (const pointer of pointers) a.add(pointer, 4 * UNROLL * NUM_LANES);
    a.sub(count, 1);
    a.jne(loop);
  }
  for (let i = 0; i < numVectors - numLoops * UNROLL; i++) body(i * NUM_LANES, i % UNROLL);
}

/** What keeps rows of this many floats from being handled 16 at a time; null: nothing. */
export function floatsObstacle(numFloats: number): string | null {
  return numFloats > 0 && numFloats % NUM_LANES === 0
    ? null
    : `rows of ${numFloats} floats are not whole vectors of ${NUM_LANES}`;
}
