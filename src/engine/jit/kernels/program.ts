// Owns the emitted loop that runs a step program: op after op, all threads, no call back into JavaScript.
import type { Address } from '../../ffi/koffi.ts';
import { emitFunction } from '../asm/function.ts';
import { mem, sized } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { type Gpr, r12, r13, r14, r15, rax, rbp, rbx, rcx, rdi, rdx, rsi } from '../asm/registers.ts';
import { opField } from './op.ts';

/** Byte offsets in a program: the header, then one record per op. */
const programField = {
  numOps: 0,
  /** u64 address of an i32 that the host may set while the program runs: no op starts afterwards. */
  abort: 8,
  /** u64 address of u64 time stamps, one per op and one more, that thread 0 fills; 0: none. */
  stamps: 16,
} as const;
const HEADER_BYTES = 64;
const recordField = { kernel: 0, op: 8 } as const;
const RECORD_BYTES = 16;

export const programBytes = (numOps: number): number => HEADER_BYTES + RECORD_BYTES * numOps;

export interface ProgramOp {
  readonly kernel: Address;
  /** The op block. */
  readonly block: Address;
}

/** Writes a program, programBytes(ops.length) from the start of `buffer`. */
export function writeProgram(
  buffer: ArrayBuffer,
  ops: readonly ProgramOp[],
  { abort, stamps }: { readonly abort: Address; readonly stamps: Address },
): void {
  const view = new DataView(buffer, 0, programBytes(ops.length));
  const set = (at: number, value: number) => view.setBigUint64(at, BigInt(value), true);
  set(programField.numOps, ops.length);
  set(programField.abort, abort);
  set(programField.stamps, stamps);
  for (const [i, { kernel, block }] of ops.entries()) {
    set(HEADER_BYTES + i * RECORD_BYTES + recordField.kernel, kernel);
    set(HEADER_BYTES + i * RECORD_BYTES + recordField.op, block);
  }
}

/** Polls of a counter, with a pause each, before the thread offers its core to others: some 20 us. */
const POLLS_PER_YIELD = 512;
/** Linux x86-64. */
const SYSCALL_SCHED_YIELD = 24;

/**
 * `void fn(ggml_tensor *dst, int ith, int nth, void *program)`: a ggml custom operation. Between ops a thread waits
 * until the pieces that others hold are done; it waits for pieces, never for threads.
 */
export function emitProgram(): MachineCode {
  return emitFunction('program', 4, (a, f) => {
    const [dst, ith, nth, program] = f.args as [Gpr, Gpr, Gpr, Gpr];
    const [record, left, thread, numThreads, header, polls] = [rbx, rbp, r12, r13, r14, r15];
    for (const register of [record, left, thread, numThreads, header, polls]) f.take(register);
    f.release(dst, ith, nth);
    a.mov(header, program);
    a.movsxd(thread, ith);
    a.movsxd(numThreads, nth);
    a.mov(left, mem(header, programField.numOps));
    a.lea(record, mem(header, HEADER_BYTES));
    const stamp = f.local();
    a.mov(rax, mem(header, programField.stamps));
    // Only thread 0 stamps.
    a.mov(rcx, 0);
    a.test(thread, thread);
    a.cmovne(rax, rcx);
    a.mov(stamp, rax);
    const emitStamp = () => {
      const skip = a.label('unstamped');
      a.mov(rcx, stamp);
      a.test(rcx, rcx);
      a.je(skip);
      a.rdtsc();
      a.shl(rdx, 32);
      a.or(rax, rdx);
      a.mov(mem(rcx), rax);
      a.add(stamp, 8);
      a.bind(skip);
    };

    const next = a.here('op');
    const [wait, done] = [a.label('wait'), a.label('op_done')];
    emitStamp();
    a.mov(rax, mem(header, programField.abort));
    a.cmp(sized(mem(rax), 4), 0);
    a.jne(f.exit);
    a.mov(rdi, mem(record, recordField.op));
    // Steps that only fill the cache have no outputs, and nothing to do for ops on them.
    a.mov(rax, mem(rdi, opField.rows));
    a.cmp(sized(mem(rax), 8), 0);
    a.je(done);
    a.mov(rsi, thread);
    a.mov(rdx, numThreads);
    a.mov(rax, mem(record, recordField.kernel));
    a.callRegister(rax);
    a.mov(rdi, mem(record, recordField.op));
    a.mov(polls, POLLS_PER_YIELD);
    a.bind(wait);
    a.cmp(mem(rdi, opField.finished), rax);
    a.jae(done);
    a.pause();
    a.sub(polls, 1);
    a.jne(wait);
    a.mov(polls, rax);
    a.mov(rax, SYSCALL_SCHED_YIELD);
    a.syscall(); // changes rax, rcx and r11
    a.mov(rax, polls);
    a.mov(polls, POLLS_PER_YIELD);
    a.jmp(wait);
    a.bind(done);
    a.add(record, RECORD_BYTES);
    a.sub(left, 1);
    a.jne(next);
    emitStamp();
  });
}
