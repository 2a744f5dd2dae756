// Owns picking rows: those of tokens whose output is wanted, from one or two matrices.
import { invariant } from '../../../../common/errors.ts';
import { mem } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import type { Isa } from '../../cpu-features.ts';
import { Lanes } from '../lanes.ts';
import { opMem } from '../op.ts';
import { cutRows, emitEach16, emitRowOp, emitRowPointer, floatsObstacle, opLayout } from './row-op.ts';

export interface GatherOptions {
  readonly isa: Isa;
  /** Features of the one or two matrices. */
  readonly widths: readonly [number] | readonly [number, number];
}

/** Row i of each out F32 is row indices[i] (I32) of its x; the second pair is not used for one matrix. */
export const gatherOp = opLayout(
  'indices',
  'x',
  'xRowBytes',
  'out',
  'outRowBytes',
  'secondX',
  'secondXRowBytes',
  'secondOut',
  'secondOutRowBytes',
);

export function emitGather({ isa, widths }: GatherOptions): MachineCode {
  for (const width of widths) {
    const obstacle = floatsObstacle(width);
    invariant(obstacle === null, obstacle ?? '');
  }
  const { field } = gatherOp;
  const matrices = [
    { x: field.x, xRowBytes: field.xRowBytes, out: field.out, outRowBytes: field.outRowBytes },
    {
      x: field.secondX,
      xRowBytes: field.secondXRowBytes,
      out: field.secondOut,
      outRowBytes: field.secondOutRowBytes,
    },
  ];
  return emitRowOp(
    `gather_${widths.join('_')}_${isa}`,
    cutRows(widths.reduce<number>((sum, width) => sum + width, 0)),
    () => {},
    (o, _, row) => {
      const { a, f, op } = o;
      const lanes = new Lanes(a, isa);
      const value = lanes.take();
      const [index, source, target, count] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
      a.mov(index, opMem(op, field.indices));
      a.movsxd(index, mem(index, 0, { index: row, scale: 4 }));
      for (const [i, width] of widths.entries()) {
        const matrix = matrices[i];
        invariant(matrix, 'one or two matrices');
        emitRowPointer(o, source, index, matrix.x, matrix.xRowBytes);
        emitRowPointer(o, target, row, matrix.out, matrix.outRowBytes);
        emitEach16(a, width, count, [source, target], (at) => {
          lanes.load(value, mem(source, 4 * at));
          lanes.store(mem(target, 4 * at), value);
        });
      }
      f.release(index, source, target, count);
    },
  );
}
