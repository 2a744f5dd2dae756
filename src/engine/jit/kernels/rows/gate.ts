// Owns the gated activation: act(gate) * up, as records or as floats.
// Legend: M rows, F feed-forward size.
import { invariant } from '../../../../common/errors.ts';
import { type Mem, mem, offset } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, rax } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { type Activation, emitActivation } from '../activation.ts';
import { Lanes, type Wide } from '../lanes.ts';
import { opMem } from '../op.ts';
import { BLOCK, type RecordLayout, recordRowBytes } from '../product/abi.ts';
import { RecordWriter, recordObstacle, rowsName } from './records.ts';
import { cutRows, emitEach16, emitRowOp, emitRowPointer, opLayout } from './row-op.ts';

export interface GateOptions {
  readonly isa: Isa;
  readonly activation: Activation;
  readonly numFeatures: number;
  /** Layout of the records to write; null: floats. */
  readonly record: RecordLayout | null;
}

/** gate and up F32 [M,F], two matrices or columns of one; out: records, or F32 [M,F]. */
export const gateOp = opLayout('gate', 'gateRowBytes', 'up', 'upRowBytes', 'out', 'outRowBytes');

const CACHE_LINE = 64;
/** About 1 us of work for one thread. */
const CHUNK_BLOCKS = 32;

/** The divisor of `numBlocks` next to CHUNK_BLOCKS: chunks are equal. */
function chunkBlocksOf(numBlocks: number): number {
  const divisors = Array.from({ length: numBlocks }, (_, i) => i + 1).filter((d) => numBlocks % d === 0);
  const distance = (d: number) => Math.abs(Math.log(d / CHUNK_BLOCKS));
  return divisors.reduce((best, d) => (distance(d) < distance(best) ? d : best));
}

/** `outRowBytes` of an op that writes records is ignored. */
export function emitGate({ isa, activation, numFeatures: F, record }: GateOptions): MachineCode {
  const obstacle = recordObstacle(F);
  invariant(obstacle === null, obstacle ?? '');
  const chunkBlocks = chunkBlocksOf(F / BLOCK);
  const chunkFloats = chunkBlocks * BLOCK;
  const { field } = gateOp;
  return emitRowOp(
    `gate_${activation}_${F}_${rowsName(record)}_${isa}`,
    cutRows(F, chunkFloats),
    ({ f }) => (record ? f.local(4 * chunkFloats + CACHE_LINE) : null),
    (o, scratch, row, chunk) => {
      const { a, f, op } = o;
      const lanes = new Lanes(a, isa);
      const [gate, up, out] = [f.gpr(), f.gpr(), f.gpr()];
      const skip = (pointer: Gpr, chunkBytes: number) => {
        if (!chunk) return;
        a.imul3(rax, chunk, chunkBytes);
        a.add(pointer, rax);
      };
      emitRowPointer(o, gate, row, field.gate, field.gateRowBytes);
      skip(gate, 4 * chunkFloats);
      emitRowPointer(o, up, row, field.up, field.upRowBytes);
      skip(up, 4 * chunkFloats);
      const load = (dst: Wide, place: (base: Gpr) => Mem, [t, n, power]: readonly Wide[]) => {
        invariant(t && n && power, 'three temporaries');
        lanes.load(dst, place(gate));
        emitActivation(lanes, activation, dst, [t, n, power]);
        lanes.op('vmulps', dst, dst, place(up));
      };
      if (record && scratch) {
        a.imul3(out, row, recordRowBytes(record, F));
        a.add(out, opMem(op, field.out));
        skip(out, chunkBlocks * record.bytes);
        const values = f.gpr();
        a.lea(values, offset(scratch, CACHE_LINE - 1));
        a.and(values, -CACHE_LINE);
        const writer = new RecordWriter(a, f, lanes, record, chunkBlocks);
        const placeAt = (at: number) => (base: Gpr) => mem(base, 4 * at, { index: writer.index });
        writer.emit(out, {
          factor: null,
          first(dst, at, temporaries) {
            load(dst, placeAt(at), temporaries);
            lanes.store(placeAt(at)(values), dst);
          },
          again: (dst, at) => lanes.load(dst, placeAt(at)(values)),
        });
        f.release(values, ...writer.registers);
      } else {
        emitRowPointer(o, out, row, field.out, field.outRowBytes);
        skip(out, 4 * chunkFloats);
        const count = f.gpr();
        const [value, ...temporaries] = [lanes.take(), lanes.take(), lanes.take(), lanes.take()] as const;
        emitEach16(a, chunkFloats, count, [gate, up, out], (at) => {
          load(value, (base) => mem(base, 4 * at), temporaries);
          lanes.store(mem(out, 4 * at), value);
        });
        f.release(count);
      }
      f.release(gate, up, out);
    },
  );
}
