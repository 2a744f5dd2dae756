// Owns the gated activation: act(gate) * up, as records or as floats.
// Legend: M rows, F feed-forward size.
import { invariant } from '../../../../common/errors.ts';
import { mem } from '../../asm/operands.ts';
import type { MachineCode } from '../../asm/program.ts';
import { type Gpr, rax } from '../../asm/registers.ts';
import type { Isa } from '../../cpu-features.ts';
import { Lanes, type Wide } from '../lanes.ts';
import { opMem } from '../op.ts';
import { BLOCK, type RecordLayout, recordRowBytes } from '../product/abi.ts';
import { type Activation, emitActivation, takeActivationConstants } from './activation.ts';
import { RecordWriter, recordObstacle } from './records.ts';
import { cutRows, emitRowOp, emitRowPointer, opLayout } from './row-op.ts';

export interface GateOptions {
  readonly isa: Isa;
  readonly activation: Activation;
  readonly numFeatures: number;
  /** Layout of the records to write; null: floats. */
  readonly record: RecordLayout | null;
}

/** gate and up F32 [M,F], two matrices or columns of one; out: records, or F32 [M,F]. */
export const gateOp = opLayout('gate', 'gateRowBytes', 'up', 'upRowBytes', 'out', 'outRowBytes');

/** About 1 us of work. */
const CHUNK_FLOATS = 1024;
/** Blocks that records are rounded in at a time: only the last chunk may have a rest. */
const BATCH = 4;

/** `outRowBytes` of an op that writes records is ignored. */
export function emitGate({ isa, activation, numFeatures: F, record }: GateOptions): MachineCode {
  const obstacle = recordObstacle(F);
  invariant(obstacle === null, obstacle ?? '');
  const numBlocks = F / BLOCK;
  const wanted = Math.ceil(F / CHUNK_FLOATS);
  const chunkBlocks = Math.ceil(numBlocks / wanted / BATCH) * BATCH;
  const { field } = gateOp;
  return emitRowOp(
    `gate_${activation}_${F}_${isa}`,
    cutRows(F, chunkBlocks * BLOCK),
    () => {},
    (o, _, row, chunk) => {
      const { a, f, op } = o;
      const lanes = new Lanes(a, isa);
      const constants = takeActivationConstants(lanes, activation);
      const [gate, up, out, count] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
      emitRowPointer(o, gate, row, field.gate, field.gateRowBytes);
      emitRowPointer(o, up, row, field.up, field.upRowBytes);
      if (record) {
        a.imul3(out, row, recordRowBytes(record, F));
        a.add(out, opMem(op, field.out));
      } else emitRowPointer(o, out, row, field.out, field.outRowBytes);
      a.mov(count, numBlocks);
      if (chunk) {
        const skip = (pointer: Gpr, blockBytes: number) => {
          a.imul3(rax, chunk, chunkBlocks * blockBytes);
          a.add(pointer, rax);
        };
        skip(gate, 4 * BLOCK);
        skip(up, 4 * BLOCK);
        skip(out, record ? record.bytes : 4 * BLOCK);
        a.imul3(rax, chunk, chunkBlocks);
        a.sub(count, rax);
        a.mov(rax, chunkBlocks);
        a.cmp(count, rax);
        a.cmovg(count, rax);
      }
      const load = (dst: Wide, at: number, [t, n, power]: readonly Wide[]) => {
        invariant(t && n && power, 'three temporaries');
        lanes.load(dst, mem(gate, 4 * at));
        emitActivation(lanes, activation, dst, constants, [t, n, power]);
        lanes.op('vmulps', dst, dst, mem(up, 4 * at));
      };
      const advance = (numFloats: number) => {
        for (const pointer of [gate, up]) a.add(pointer, 4 * numFloats);
      };
      if (record) new RecordWriter(a, f, lanes, record).emit(numBlocks, count, out, { factor: null, load, advance });
      else {
        const [value, ...temporaries] = [lanes.take(), lanes.take(), lanes.take(), lanes.take()] as const;
        const loop = a.here('block');
        for (const at of [0, BLOCK / 2]) {
          load(value, at, temporaries);
          lanes.store(mem(out, 4 * at), value);
        }
        advance(BLOCK);
        a.add(out, 4 * BLOCK);
        a.sub(count, 1);
        a.jne(loop);
      }
      f.release(gate, up, out, count);
    },
  );
}
