// Owns the measured bound of row kernels: reading what lies in the second-level caches.
import { mem } from '../../../engine/jit/asm/operands.ts';
import { rax } from '../../../engine/jit/asm/registers.ts';
import { Lanes } from '../../../engine/jit/kernels/lanes.ts';
import { emitOp, OP_FIELDS, OpBlock, opMem } from '../../../engine/jit/kernels/op.ts';
import type { Isa } from '../../../engine/jit/cpu-features.ts';
import type { KernelCase } from './case.ts';

const PIECES_PER_THREAD = 8;
const PIECE_BYTES = 32 * 1024;
const TURN_BYTES = 1024;
const LANE_BYTES = 64;
const BLOCK_BYTES = 192;
const NUM_OPS = 64;

function emitRead(isa: Isa) {
  return emitOp(
    `read_cache_${isa}`,
    ({ a, numRows }) => a.mov(rax, numRows),
    ({ a, f, op }) => {
      const [address, turns] = [f.gpr(), f.gpr()];
      const lanes = new Lanes(a, isa);
      const values = Array.from({ length: 4 }, () => lanes.take());
      a.imul3(address, rax, PIECE_BYTES);
      a.add(address, opMem(op, OP_FIELDS));
      a.mov(turns, PIECE_BYTES / TURN_BYTES);
      const loop = a.here('read');
      for (let at = 0; at < TURN_BYTES; at += LANE_BYTES) {
        const value = values[(at / LANE_BYTES) % values.length];
        if (value) lanes.load(value, mem(address, at));
      }
      a.add(address, TURN_BYTES);
      a.sub(turns, 1);
      a.jne(loop);
      f.release(address, turns);
    },
  );
}

/** Every thread reads its own part of the same memory again and again. */
export function cacheReadCase(numThreads: number): KernelCase {
  const numPieces = PIECES_PER_THREAD * numThreads;
  return {
    kernel: 'reading caches',
    model: '',
    shape: '',
    rows: numPieces,
    work: {
      operations: 0,
      arithmetic: 'f32',
      operationsPerOperation: 1,
      bytes: numPieces * PIECE_BYTES,
      bytesIn: 'cache',
    },
    emit: emitRead,
    ops: ({ isa, data, rows }) =>
      Array.from({ length: NUM_OPS }, () => ({
        kernel: 'read',
        emit: () => emitRead(isa),
        label: 'read',
        rows,
        blockBytes: BLOCK_BYTES,
        write: (buffer, byteOffset) => new OpBlock(buffer, byteOffset, BLOCK_BYTES).set(OP_FIELDS, data.address),
      })),
    ggml: null,
  };
}
