// Owns how kernels of a step program are called, and how threads share the work of one: claimed in pieces.
import type { Address } from '../../ffi/koffi.ts';
import type { Assembler } from '../asm/assembler.ts';
import { emitFunction, type Frame } from '../asm/function.ts';
import { type Mem, mem, sized } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { type Gpr, r32, rax, rcx, rdx } from '../asm/registers.ts';

/*
 * A step program (`program.ts`) is a list of ops. An op is a kernel and its op block, memory that says what to work on:
 *
 *   i64 kernel(void *op, u64 caller, i64 numThreads)  →  number of pieces of the op
 *
 * Every thread calls every kernel. A kernel cuts its op into pieces, the same in every thread, and its threads claim
 * them until none is left: even threads from the first piece up, odd ones from the last down. So a core finds most rows
 * where it has left them in the op before (getting them from the other core's cache took 20 to 80 ns per line). Each
 * piece done is counted. The op is done when all pieces are: a thread that lost its core between pieces delays nobody,
 * and comes back to find the work done, or even the next steps begun.
 *
 * So counters name their step, by its generation: `caller` is generation << 32 | thread. Counters of an older step count
 * as none, nobody sets them back, and who comes with an old generation finds nothing to claim. Nor does he where the
 * host is writing the inputs of the next step of the same program: it writes their generation first, and threads look
 * at that after they have read how many rows there are.
 */

/** Byte offsets at the start of every op block. Counters stand on cache lines of their own; kernels' fields follow. */
export const opField = {
  /** u16 pieces claimed from the first on, u16 from the last on, u32 generation of the step. */
  claimed: 0,
  /** u32 pieces done, u32 generation of the step. */
  finished: 64,
  /** u64 address of the op's rows (`rowsField`). */
  rows: 128,
} as const;
/** i64 each: how many rows of this step the op works on, the first of them in its buffers, the step's generation. */
export const rowsField = { count: 0, first: 8, generation: 16 } as const;
export const ROWS_BYTES = 24;
/** Added to `claimed` by claims from the first piece on, and from the last on. */
const CLAIM = { first: 1, last: 0x1_0000 } as const;
/** Where a kernel's own fields start. */
export const OP_FIELDS = 136;

/** Where an op's pieces are cut and done. Registers that a piece keeps across `body` must be taken from the frame. */
export interface OpFrame {
  readonly a: Assembler;
  readonly f: Frame;
  /** Kept throughout. */
  readonly op: Gpr;
  /** This thread's number, and how many there are. */
  readonly thread: Mem;
  readonly numThreads: Mem;
  /** i64 rows of the op in this step, and the first of them in its buffers. */
  readonly numRows: Mem;
  readonly firstRow: Mem;
}

/**
 * Emits a kernel. `count` leaves the number of pieces in rax, from the op and `numRows` alone; it runs once, may take
 * registers and locals for what pieces share, and emits constants. `piece` does the piece whose number is in rax; it may
 * change rax and every register that it takes. rax is never free to take; two others must be left by `count`.
 */
export function emitOp(name: string, count: (o: OpFrame) => void, piece: (o: OpFrame) => void): MachineCode {
  return emitFunction(name, 3, (a, f) => {
    const [op, caller, numThreads] = f.args as [Gpr, Gpr, Gpr];
    const o: OpFrame = { a, f, op, thread: f.local(), numThreads: f.local(), numRows: f.local(), firstRow: f.local() };
    f.take(rax);
    a.mov(r32(rax), r32(caller));
    a.mov(o.thread, rax);
    a.mov(o.numThreads, numThreads);
    // What remains is generation << 32: claims of this step count up from it.
    const [firstClaim, step] = [f.local(), f.local()];
    a.sub(caller, rax);
    a.mov(firstClaim, caller);
    a.and(rax, 1);
    a.imul3(rax, rax, CLAIM.last - CLAIM.first);
    a.add(rax, CLAIM.first);
    a.mov(step, rax);
    a.mov(caller, mem(op, opField.rows));
    a.mov(rax, mem(caller, rowsField.count));
    a.mov(o.numRows, rax);
    a.mov(rax, mem(caller, rowsField.first));
    a.mov(o.firstRow, rax);
    f.release(caller, numThreads);
    const numPieces = f.local();
    count(o);
    a.mov(numPieces, rax);

    const [claim, retry, done] = [a.label('claim'), a.label('retry'), a.label('done')];
    const [unclaimed, add] = [a.label('unclaimed'), a.label('add')];
    const [fromLast, claimed] = [a.label('from_last'), a.label('claimed')];
    const [next, after] = [f.gpr(), f.gpr()];
    a.mov(next, mem(op, opField.rows));
    a.mov(next, mem(next, rowsField.generation));
    a.shl(next, 32);
    a.cmp(next, firstClaim);
    a.jne(done);
    a.bind(claim);
    a.mov(rax, mem(op, opField.claimed));
    a.bind(retry);
    a.mov(next, rax);
    a.sub(next, firstClaim);
    // How many steps the counter is ahead.
    a.mov(after, next);
    a.sar(after, 32);
    a.jl(unclaimed);
    a.jne(done);
    a.mov(after, next);
    a.shr(after, 16);
    a.and(next, 0xffff);
    a.add(next, after);
    a.cmp(next, numPieces);
    a.jae(done);
    a.mov(after, rax);
    a.jmp(add);
    a.bind(unclaimed);
    a.mov(after, firstClaim);
    a.bind(add);
    a.mov(next, after);
    a.add(after, step);
    a.lockCmpxchg(mem(op, opField.claimed), after);
    a.jne(retry);
    a.mov(rax, next);
    a.sub(rax, firstClaim);
    a.cmp(step, CLAIM.first);
    a.jne(fromLast);
    a.and(rax, 0xffff);
    a.jmp(claimed);
    a.bind(fromLast);
    a.shr(rax, 16);
    a.mov(next, numPieces);
    a.sub(next, rax);
    a.lea(rax, mem(next, -1));
    a.bind(claimed);
    f.release(next, after);
    piece(o);
    emitFinish(a, f, op, firstClaim);
    a.jmp(claim);
    a.bind(done);
    a.mov(rax, numPieces);
  });
}

/** Counts a piece done. Pieces may hold on to all registers: two are saved. */
function emitFinish(a: Assembler, f: Frame, op: Gpr, firstClaim: Mem): void {
  const [ahead, after] = [rcx, rdx];
  const saved = [ahead, after].map((register) => ({ register, place: f.local() }));
  for (const { register, place } of saved) a.mov(place, register);
  const [retry, add] = [a.label('retry_finish'), a.label('add_finish')];
  a.mov(rax, mem(op, opField.finished));
  a.bind(retry);
  a.mov(after, rax);
  a.mov(ahead, rax);
  a.sub(ahead, firstClaim);
  a.sar(ahead, 32);
  a.je(add);
  a.mov(after, firstClaim);
  a.bind(add);
  a.add(after, 1);
  a.lockCmpxchg(mem(op, opField.finished), after);
  a.jne(retry);
  for (const { register, place } of saved) a.mov(register, place);
}

/** A view of an op block's 8-byte fields. */
export class OpBlock {
  readonly #view: DataView;

  /** `byteOffset` must be a multiple of 64 in memory. */
  constructor(buffer: ArrayBuffer, byteOffset: number, numBytes: number) {
    new Uint8Array(buffer, byteOffset, numBytes).fill(0);
    this.#view = new DataView(buffer, byteOffset, numBytes);
  }

  /** An address, or an integer below 2^53. */
  set(field: number, value: Address): void {
    this.#view.setBigInt64(field, BigInt(value), true);
  }

  setFloat(field: number, value: number): void {
    this.#view.setFloat32(field, value, true);
  }
}

/** Makes the op block at `byteOffset` work on the rows that `rows` tells (`rowsField`). */
export function setRows(buffer: ArrayBuffer, byteOffset: number, rows: Address): void {
  new DataView(buffer, byteOffset).setBigInt64(opField.rows, BigInt(rows), true);
}

/** An 8-byte field of an op. */
export const opMem = (op: Gpr, field: number): Mem => sized(mem(op, field), 8);
