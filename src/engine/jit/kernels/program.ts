// Owns the emitted loops that run a step program: op after op, on a team of threads, no call back into JavaScript.
import type { Address } from '../../ffi/koffi.ts';
import type { Assembler } from '../asm/assembler.ts';
import { emitFunction } from '../asm/function.ts';
import { mem, sized } from '../asm/operands.ts';
import type { MachineCode } from '../asm/program.ts';
import { type Gpr, r8, r10, r12, r13, r14, r15, r32, rax, rbp, rbx, rcx, rdi, rdx, rsi } from '../asm/registers.ts';
import { opField } from './op.ts';

/*
 * A step begins when the team's generation counts up: workers, which spin or sleep, notice and run the program. Worker 0
 * leads. It waits at every op for its pieces, never for threads; when the last op is done it begins the step that the
 * host has queued meanwhile, if any, and writes a byte. Where none is queued it says so, and the host begins the next
 * one. A worker that comes too late finds nothing to claim and goes back to wait.
 */

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

/** Byte offsets in a team's block. What threads wait on stands on cache lines of its own. */
export const teamField = {
  /** u32 step that runs or ran last: 0 before the first, then counting; a futex. */
  generation: 0,
  /** u32 workers that sleep or are about to. */
  sleepers: 64,
  /** u64 address of the program to run, of `emitProgram`'s code, and i64 number of threads. */
  program: 128,
  run: 136,
  numThreads: 144,
  /** u32 not 0: workers return. Followed by a new generation. */
  stop: 152,
  /** i64 rounds of polling before a worker sleeps. */
  numPolls: 160,
  /** u64 program of the next step, 0: none yet, or LEADER_IDLE: none, and the leader waits for a new generation. */
  queued: 192,
} as const;
export const TEAM_BYTES = 256;
export const LEADER_IDLE = 1;

/** Linux x86-64. */
const SYSCALL = { write: 1, schedYield: 24, futex: 202 } as const;
const FUTEX_WAIT_PRIVATE = 128;
const FUTEX_WAKE_PRIVATE = 129;

/** Polls of a counter, with a pause each, before the thread offers its core to others: some 10 us. */
const POLLS_PER_YIELD = 256;

/** Offers the core to whoever waits for one. Changes rcx and r11, keeps rax in `saved`. */
function emitYield(a: Assembler, saved: Gpr): void {
  a.mov(saved, rax);
  a.mov(rax, SYSCALL.schedYield);
  a.syscall();
  a.mov(rax, saved);
}

/** `void run(void *program, u64 caller, void *team)`: all ops in order, as one thread of the team. */
export function emitProgram(): MachineCode {
  return emitFunction('team_program', 3, (a, f) => {
    const [program, callerArg, teamArg] = f.args as [Gpr, Gpr, Gpr];
    const [record, left, caller, team, header, polls] = [rbx, rbp, r12, r13, r14, r15];
    for (const register of [record, left, caller, team, header, polls]) f.take(register);
    f.release(program, callerArg, teamArg);
    a.mov(header, program);
    a.mov(caller, callerArg);
    a.mov(team, teamArg);
    a.mov(left, mem(header, programField.numOps));
    a.lea(record, mem(header, HEADER_BYTES));
    const stamp = f.local();
    const generation = f.local();
    a.mov(rax, caller);
    a.shr(rax, 32);
    a.mov(generation, rax);
    a.mov(rax, mem(header, programField.stamps));
    // Only thread 0 stamps.
    a.mov(rcx, 0);
    a.test(r32(caller), r32(caller));
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

    /** rcx: pieces of the op at rdi that are done, or less than 0 where none is of this step. Changes rdx. */
    const emitFinished = (step: typeof generation) => {
      const ofStep = a.label('finished');
      a.mov(rcx, mem(rdi, opField.finished));
      a.mov(rdx, rcx);
      a.shr(rdx, 32);
      a.mov(r32(rcx), r32(rcx));
      a.cmp(rdx, step);
      a.je(ofStep);
      a.mov(rcx, -1);
      a.bind(ofStep);
    };

    const next = a.here('op');
    const [wait, done, aborted] = [a.label('wait'), a.label('op_done'), a.label('aborted')];
    emitStamp();
    a.mov(rax, mem(header, programField.abort));
    a.cmp(sized(mem(rax), 4), 0);
    a.jne(aborted);
    a.mov(rdi, mem(record, recordField.op));
    // Steps that only fill the cache have no outputs, and nothing to do for ops on them.
    a.mov(rax, mem(rdi, opField.rows));
    a.cmp(sized(mem(rax), 8), 0);
    a.je(done);
    a.mov(rsi, caller);
    a.mov(rdx, mem(team, teamField.numThreads));
    a.mov(rax, mem(record, recordField.kernel));
    a.callRegister(rax);
    a.mov(rdi, mem(record, recordField.op));
    a.mov(polls, POLLS_PER_YIELD);
    a.bind(wait);
    emitFinished(generation);
    a.cmp(rcx, rax);
    a.jge(done);
    // The step has ended without this thread: the counters are the next one's.
    a.mov(rcx, generation);
    a.cmp(mem(team, teamField.generation), r32(rcx));
    a.jne(f.exit);
    const patient = a.label('patient');
    a.test(r32(caller), r32(caller));
    a.je(patient);
    a.mov(rcx, mem(header, programField.abort));
    a.cmp(sized(mem(rcx), 4), 0);
    a.jne(f.exit);
    a.bind(patient);
    a.pause();
    a.sub(polls, 1);
    a.jne(wait);
    emitYield(a, polls);
    a.mov(polls, POLLS_PER_YIELD);
    a.jmp(wait);
    a.bind(done);
    a.add(record, RECORD_BYTES);
    a.sub(left, 1);
    a.jne(next);
    emitStamp();
    a.jmp(f.exit);

    // Workers leave. Thread 0 closes this op and those behind it, and waits for the pieces that others had claimed.
    a.bind(aborted);
    a.test(r32(caller), r32(caller));
    a.jne(f.exit);
    const close = a.here('close');
    const [drain, drained] = [a.label('drain'), a.label('drained')];
    a.mov(rdi, mem(record, recordField.op));
    a.mov(rax, caller);
    a.or(rax, 0x7fff_ffff);
    a.xchg(mem(rdi, opField.claimed), rax);
    // Claims from both ends, none where the counter is still another step's.
    a.mov(rcx, rax);
    a.shr(rcx, 32);
    a.cmp(rcx, generation);
    a.mov(r32(rcx), 0);
    a.cmovne(rax, rcx);
    a.mov(r32(rcx), r32(rax));
    a.shr(rcx, 16);
    a.and(rax, 0xffff);
    a.add(rax, rcx);
    a.bind(drain);
    a.test(rax, rax);
    a.je(drained);
    emitFinished(generation);
    a.cmp(rcx, rax);
    a.jge(drained);
    a.pause();
    emitYield(a, polls);
    a.jmp(drain);
    a.bind(drained);
    a.add(record, RECORD_BYTES);
    a.sub(left, 1);
    a.jne(close);
  });
}

/** `void begin(void *team)`: begins the next generation: workers run its program, or look whether they are to stop. */
export function emitBegin(): MachineCode {
  return emitFunction('team_begin', 1, (a, f) => {
    const [teamArg] = f.args as [Gpr];
    const team = f.take(rbx);
    a.mov(team, teamArg);
    emitNextGeneration(a, team);
  });
}

function emitNextGeneration(a: Assembler, team: Gpr): void {
  const awake = a.label('awake');
  a.mov(rax, 1);
  a.lockXadd(mem(team, teamField.generation), r32(rax));
  a.cmp(sized(mem(team, teamField.sleepers), 4), 0);
  a.je(awake);
  emitFutex(a, team, FUTEX_WAKE_PRIVATE, 0x7fff_ffff);
  a.bind(awake);
}

/** Byte offsets in a worker's block: u64 team, i64 thread, i64 descriptor to write to when a step is done; -1: none. */
export const workerField = { team: 0, thread: 8, signal: 16 } as const;

/** `void *work(void *worker)`: a thread of the team for all its life. */
export function emitWorker(): MachineCode {
  return emitFunction('team_worker', 1, (a, f) => {
    const [workerArg] = f.args as [Gpr];
    const [team, worker, seen, rounds, saved] = [rbx, rbp, r12, r13, r14];
    for (const register of [team, worker, seen, rounds, saved]) f.take(register);
    a.mov(worker, workerArg);
    a.mov(team, mem(worker, workerField.team));
    a.mov(r32(seen), 0);
    const [poll, run, sleep] = [a.label('poll'), a.label('run'), a.label('sleep')];
    const idle = a.here('idle');
    a.mov(rounds, mem(team, teamField.numPolls));
    a.bind(poll);
    a.cmp(mem(team, teamField.generation), r32(seen));
    a.jne(run);
    a.test(rounds, rounds);
    a.je(sleep);
    for (let i = 0; i < 16; i++) a.pause();
    emitYield(a, saved);
    a.sub(rounds, 1);
    a.jmp(poll);

    a.bind(sleep);
    a.mov(rax, 1);
    a.lockXadd(mem(team, teamField.sleepers), r32(rax));
    // Sleeps only if the generation is still the one seen; `begin` counts first and looks for sleepers then.
    emitFutex(a, team, FUTEX_WAIT_PRIVATE, seen);
    a.mov(rax, -1);
    a.lockXadd(mem(team, teamField.sleepers), r32(rax));
    a.jmp(idle);

    a.bind(run);
    a.mov(r32(seen), mem(team, teamField.generation));
    a.cmp(sized(mem(team, teamField.stop), 4), 0);
    a.jne(f.exit);
    const step = a.here('step');
    a.mov(rsi, seen);
    a.shl(rsi, 32);
    a.or(rsi, mem(worker, workerField.thread));
    emitRun(a, team);
    a.cmp(sized(mem(worker, workerField.signal), 8), 0);
    a.jl(idle);

    // The leader. The queue is settled before the host hears of the step's end: it may then queue again.
    const noneQueued = a.label('none_queued');
    a.mov(rax, 0);
    a.mov(rcx, LEADER_IDLE);
    a.lockCmpxchg(mem(team, teamField.queued), rcx);
    a.je(noneQueued);
    a.mov(mem(team, teamField.program), rax);
    a.mov(sized(mem(team, teamField.queued), 8), 0);
    emitNextGeneration(a, team);
    a.mov(r32(seen), mem(team, teamField.generation));
    emitSignal(a, worker);
    a.jmp(step);
    a.bind(noneQueued);
    emitSignal(a, worker);
    a.jmp(idle);
  });
}

/** write(signal, any byte, 1) */
function emitSignal(a: Assembler, worker: Gpr): void {
  a.mov(rdi, mem(worker, workerField.signal));
  a.mov(rsi, worker);
  a.mov(rdx, 1);
  a.mov(rax, SYSCALL.write);
  a.syscall();
}

/** run(program, rsi, team) */
function emitRun(a: Assembler, team: Gpr): void {
  a.mov(rdi, mem(team, teamField.program));
  a.mov(rdx, team);
  a.mov(rax, mem(team, teamField.run));
  a.callRegister(rax);
}

/** futex(&generation, operation, value, no time limit) */
function emitFutex(a: Assembler, team: Gpr, operation: number, value: number | Gpr): void {
  a.lea(rdi, mem(team, teamField.generation));
  a.mov(rsi, operation);
  a.mov(rdx, value);
  a.mov(r10, 0);
  a.mov(r8, 0);
  a.mov(rax, SYSCALL.futex);
  a.syscall();
}
