// Owns rounding of rows of floats to records, where no kernel before could do it.
// Legend: M rows, K their length.
import { invariant } from '../../../../common/errors.ts';
import { mem } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import type { Isa } from '../../cpu-features.ts';
import { Lanes, type Wide } from '../lanes.ts';
import { opMem } from '../op.ts';
import { BLOCK, type RecordLayout, recordRowBytes } from '../product/abi.ts';
import { RecordWriter, recordObstacle, rowsName } from './records.ts';
import { cutRows, emitRowOp, emitRowPointer, opLayout } from './row-op.ts';

/** x F32 [M,K], its records. */
export const quantiseOp = opLayout('x', 'xRowBytes', 'records');

export interface QuantiseOptions {
  readonly isa: Isa;
  readonly numFeatures: number;
  readonly record: RecordLayout;
}

export function emitQuantise({ isa, numFeatures: K, record }: QuantiseOptions): MachineCode {
  const obstacle = recordObstacle(K);
  invariant(obstacle === null, obstacle ?? '');
  return emitRowOp(
    `quantise_${K}_${rowsName(record)}_${isa}`,
    cutRows(K),
    () => {},
    (o, _, row) => {
      const { a, f, op } = o;
      const lanes = new Lanes(a, isa);
      const [x, target] = [f.gpr(), f.gpr()];
      emitRowPointer(o, x, row, quantiseOp.field.x, quantiseOp.field.xRowBytes);
      a.imul3(target, row, recordRowBytes(record, K));
      a.add(target, opMem(op, quantiseOp.field.records));
      const writer = new RecordWriter(a, f, lanes, record, K / BLOCK);
      const load = (dst: Wide, at: number) => lanes.load(dst, mem(x, 4 * at, { index: writer.index }));
      writer.emit(target, { factor: null, first: load, again: load });
      f.release(x, target, ...writer.registers);
    },
  );
}
