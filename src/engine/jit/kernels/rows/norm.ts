// Owns the norms: rows divided by their root mean square (or made standard), as records, as floats, or as both.
// Legend: M rows, D features.
import { invariant } from '../../../../common/errors.ts';
import { type Mem, mem, sized } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import type { Gpr, Vec } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { Lanes, NUM_LANES, type Wide } from '../lanes.ts';
import { opMem } from '../op.ts';
import { BLOCK, type RecordLayout, recordRowBytes } from '../product/abi.ts';
import { RecordWriter, recordObstacle, rowsName } from './records.ts';
import { cutRows, emitEach16, emitRowOp, emitRowPointer, floatsObstacle, opLayout } from './row-op.ts';
import { emitInverseRms, emitRowSum, foldSums, takeSums } from './row-sum.ts';

export interface NormOptions {
  readonly isa: Isa;
  /** `rms`: x / rms(x) * w. `layer`: (x - mean) / deviation * w + bias. */
  readonly kind: 'rms' | 'layer';
  readonly numFeatures: number;
  readonly eps: number;
  /** Layout of the records to write; null: none. */
  readonly record: RecordLayout | null;
  /** What becomes of rows of floats: not written, written, or added to what is there (`rms` without records only). */
  readonly floats: 'none' | 'written' | 'added';
}

/** x F32 [M,D], weight and bias F32 [D], records of [M,D], out F32 [M,D]. Addresses that an op does not use are 0. */
export const normOp = opLayout('x', 'xRowBytes', 'weight', 'bias', 'records', 'out', 'outRowBytes');

/** What keeps this norm from being emitted; null: nothing. */
export function normObstacle({ kind, numFeatures, record, floats }: NormOptions): string | null {
  if (floats === 'added' && (record || kind === 'layer')) return 'only an RMS norm that is not quantised can be added';
  return record ? recordObstacle(numFeatures) : floatsObstacle(numFeatures);
}

/**
 * An RMS norm is (x * w) * r with r = 1 / sqrt(mean of squares + eps); records round x * w, and r multiplies their
 * scales: rounding does not depend on it.
 */
export function emitNorm(options: NormOptions): MachineCode {
  const { isa, kind, numFeatures: D, eps, record, floats } = options;
  const obstacle = normObstacle(options);
  invariant(obstacle === null, obstacle ?? '');
  const { field } = normOp;
  return emitRowOp(
    ['norm', kind, D, record && rowsName(record), floats === 'none' ? null : `floats_${floats}`, isa]
      .filter(Boolean)
      .join('_'),
    cutRows(D),
    ({ f }) => ({ mean: sized(f.local(), 4), inverse: sized(f.local(), 4) }),
    (o, { mean, inverse }, row) => {
      const { a, f, op } = o;
      const lanes = new Lanes(a, isa);
      const [x, weight, bias, out, count] = [f.gpr(), f.gpr(), f.gpr(), f.gpr(), f.gpr()];
      const rowOfX = () => emitRowPointer(o, x, row, field.x, field.xRowBytes);
      const cursor = { pointer: x, count };

      rowOfX();
      const centre = lanes.takeSplat();
      const difference = lanes.take();
      if (kind === 'layer') {
        const sum = emitRowSum(a, lanes, D, cursor, (total, place) => lanes.op('vaddps', total, total, place));
        a.vmulss(sum, sum, a.f32(1 / D));
        a.vmovss(mean, sum);
        lanes.broadcast(centre, mean);
        rowOfX();
      }
      const factor = lanes.takeSplat();
      const emitFactor = (squares: Vec) => {
        emitInverseRms(a, squares, D, eps, factor[0] as Vec);
        a.vmovss(inverse, squares);
        lanes.broadcast(factor, inverse);
      };
      // With registers to spare, x is squared where its largest magnitudes are found.
      const sums = isa === 'avx512' && kind === 'rms' && record ? takeSums(lanes) : null;
      if (!sums) {
        const square = (total: Wide, place: Mem) => {
          lanes.load(difference, place);
          if (kind === 'layer') lanes.op('vsubps', difference, difference, centre);
          lanes.op('vfmadd231ps', total, difference, difference);
        };
        emitFactor(emitRowSum(a, lanes, D, cursor, square));
        rowOfX();
      }
      lanes.release(difference);
      a.mov(weight, opMem(op, field.weight));
      if (kind === 'layer') a.mov(bias, opMem(op, field.bias));
      if (floats !== 'none') emitRowPointer(o, out, row, field.out, field.outRowBytes);
      /** `rms`: x * w, to be multiplied with `factor`. `layer`: the result. */
      const load = (dst: Wide, place: (base: Gpr) => Mem, total: Wide | null) => {
        lanes.load(dst, place(x));
        if (total) lanes.op('vfmadd231ps', total, dst, dst);
        if (kind === 'rms') return lanes.op('vmulps', dst, dst, place(weight));
        lanes.op('vsubps', dst, dst, centre);
        lanes.op('vmulps', dst, dst, factor);
        lanes.op('vmulps', dst, dst, place(weight));
        lanes.op('vaddps', dst, dst, place(bias));
      };
      const store = (place: Mem, value: Wide, temporary: Wide) => {
        if (floats === 'added') {
          lanes.load(temporary, place);
          lanes.op('vfmadd231ps', temporary, value, factor);
        } else if (kind === 'rms') lanes.op('vmulps', temporary, value, factor);
        lanes.store(place, kind === 'rms' ? temporary : value);
      };
      if (record) {
        const target = f.gpr();
        a.imul3(target, row, recordRowBytes(record, D));
        a.add(target, opMem(op, field.records));
        const writer = new RecordWriter(a, f, lanes, record, D / BLOCK);
        const placeAt = (at: number) => (base: Gpr) => mem(base, 4 * at, { index: writer.index });
        writer.emit(target, {
          factor: kind === 'rms' ? inverse : null,
          first: (dst, at) => load(dst, placeAt(at), sums?.[(at / NUM_LANES) % sums.length] ?? null),
          between: () => sums && emitFactor(foldSums(lanes, sums)),
          again(dst, at, [temporary]) {
            load(dst, placeAt(at), null);
            if (floats !== 'none' && temporary) store(placeAt(at)(out), dst, temporary);
          },
        });
        f.release(target, ...writer.registers);
      } else {
        const pointers = [x, weight, out, ...(kind === 'layer' ? [bias] : [])];
        const [value, temporary] = [lanes.take(), lanes.take()];
        emitEach16(a, D, count, pointers, (at) => {
          load(value, (base) => mem(base, 4 * at), null);
          store(mem(out, 4 * at), value, temporary);
        });
      }
      f.release(x, weight, bias, out, count);
    },
  );
}
