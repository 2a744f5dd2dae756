// Owns looking up embeddings: rows of a table of floats, or of a matrix that is packed for products.
// Legend: M rows, D features.
import { invariant } from '../../../../common/errors.ts';
import { mem, offset } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, r32, rax } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { Lanes, NUM_LANES, type Wide } from '../lanes.ts';
import { opMem } from '../op.ts';
import { type FloatLayout, type PackedLayout, STRIP_ROWS, stripBytes } from '../product/layout.ts';
import { emitStripRow, type LookUp } from './embed-strip.ts';
import { cutRows, emitRowOp, emitRowPointer, floatsObstacle, opLayout } from './row-op.ts';

/** Rows of floats one after the other, as in files. */
export interface RowTable {
  readonly kind: 'rows';
  readonly format: FloatLayout['format'];
}

export interface EmbedOptions {
  readonly isa: Isa;
  readonly numFeatures: number;
  readonly table: RowTable | PackedLayout;
  /** Factor on the embeddings. */
  readonly scale: number;
}

/**
 * tokens I32 [M], table, out F32 [M,D]. A token below 0 stands for -1 - i where result i of the step before is meant:
 * I32 at sampled + i * sampledBytes.
 */
export const embedOp = opLayout('tokens', 'sampled', 'sampledBytes', 'table', 'out', 'outRowBytes');

export function emitEmbed({ isa, numFeatures: D, table, scale }: EmbedOptions): MachineCode {
  const obstacle = floatsObstacle(D);
  invariant(obstacle === null, obstacle ?? '');
  const { field } = embedOp;
  return emitRowOp(
    `embed_${table.kind}_${table.format}_${D}_${isa}`,
    cutRows(D),
    () => {},
    (o, _, row) => {
      const { a, f, op } = o;
      const [token, source, out, count] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
      a.mov(token, opMem(op, field.tokens));
      a.movsxd(token, mem(token, 0, { index: row, scale: 4 }));
      const known = a.label('token');
      a.test(token, token);
      a.jns(known);
      a.not(token);
      a.imul(token, opMem(op, field.sampledBytes));
      a.add(token, opMem(op, field.sampled));
      a.movsxd(token, mem(token));
      a.bind(known);
      emitRowPointer(o, out, row, field.out, field.outRowBytes);
      a.mov(source, token);
      if (table.kind !== 'rows') {
        a.shr(source, Math.log2(STRIP_ROWS));
        a.and(token, STRIP_ROWS - 1);
      }
      const distance = table.kind === 'rows' ? D * (table.format === 'F32' ? 4 : 2) : stripBytes(table, D);
      a.imul3(source, source, distance);
      a.add(source, opMem(op, field.table));
      const lanes = new Lanes(a, isa);
      const finish = (value: Wide) => {
        if (scale !== 1) lanes.op('vmulps', value, value, lanes.constant(scale));
      };
      const lookUp = { o, lanes, numFeatures: D, source, rowInStrip: token, out, count, finish };
      if (table.kind === 'rows') emitFloats(lookUp, table.format, source);
      else if (table.kind === 'float') emitStripFloats(lookUp, table);
      else emitStripRow(lookUp, table);
      f.release(token, source, out, count);
    },
  );
}

/** The row's floats stand at `from`, which may be the end of `out`. */
function emitFloats(
  { o, lanes, numFeatures, out, count, finish }: LookUp,
  format: RowTable['format'],
  from: Gpr,
): void {
  const { a } = o;
  const value = lanes.take();
  a.mov(count, 0); // twice the number of floats done
  const loop = a.here('vector');
  const place = mem(from, 0, { index: count, scale: format === 'F32' ? 2 : 1 });
  if (format === 'F32') lanes.load(value, place);
  else if (format === 'F16') lanes.loadHalf(value, place);
  else {
    for (const [i, part] of value.entries()) a.vpmovzxwd(part, offset(place, (i * part.bits) / 16));
    lanes.shiftLeft(value, value, 16);
  }
  finish(value);
  lanes.store(mem(out, 0, { index: count, scale: 2 }), value);
  a.add(count, 2 * NUM_LANES);
  a.cmp(count, 2 * numFeatures);
  a.jl(loop);
}

/** Element k of row r stands at 32 k + r of a strip. They are first collected at the end of `out`. */
function emitStripFloats(lookUp: LookUp, { format, elementBytes }: FloatLayout): void {
  const { o, numFeatures, source, rowInStrip, out, count } = lookUp;
  const { a, f } = o;
  const [target, other] = [f.gpr(), f.gpr()];
  const stride = STRIP_ROWS * elementBytes;
  const end = mem(out, (4 - elementBytes) * numFeatures);
  a.lea(source, mem(source, 0, { index: rowInStrip, scale: elementBytes }));
  a.lea(target, end);
  a.mov(count, numFeatures / 2);
  const loop = a.here('pair');
  if (elementBytes === 4) {
    a.mov(r32(rax), mem(source));
    a.mov(r32(other), mem(source, stride));
    a.mov(mem(target, 4), r32(other));
  } else {
    a.movzxw(r32(rax), mem(source));
    a.movzxw(r32(other), mem(source, stride));
    a.shl(other, 16);
    a.or(rax, other);
  }
  a.mov(mem(target), r32(rax));
  a.add(source, 2 * stride);
  a.add(target, 2 * elementBytes);
  a.sub(count, 1);
  a.jne(loop);
  a.lea(target, end);
  emitFloats(lookUp, format, target);
  f.release(target, other);
}
