// Owns the threads that run step programs: native threads that live as long as the engine and never see JavaScript.
import { invariant } from '../../common/errors.ts';
import { type Address, koffi } from '../ffi/koffi.ts';
import { createThread, joinThread } from '../ffi/libc.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { type ExecutableCode, loadCode, type PlacedCode } from '../jit/asm/exec-memory.ts';
import {
  emitBegin,
  emitProgram,
  emitWorker,
  LEADER_IDLE,
  TEAM_BYTES,
  teamField,
  workerField,
} from '../jit/kernels/program.ts';
import { StepSignal } from './step-signal.ts';

export interface TeamOptions {
  readonly numThreads: number;
  /** Whether workers poll for about a millisecond between steps before they sleep: waking one takes 50 us. */
  readonly polls: boolean;
}

/** Rounds of 16 pauses and an offer of the core, 1 to 2 us each. */
const NUM_POLLS = 1000;
const LINE_BYTES = 64;

type TeamCall = ReturnType<typeof koffi.decode>;

const teamCall = koffi.proto('void xllm_team_call(uintptr_t)');

export class ThreadTeam {
  readonly numThreads: number;
  /** The team's own code, for profilers. */
  readonly kernels: readonly PlacedCode[];
  readonly #code: ExecutableCode;
  /** The team's block, then a line per worker. */
  readonly #memory: NativeMemory;
  readonly #view: DataView;
  readonly #queued: BigInt64Array;
  readonly #begin: TeamCall;
  readonly #signal: StepSignal;
  readonly #workers: readonly number[];
  /** Of the step that was queued last. */
  #generation = 0;
  #numRunning = 0;

  /** Throws SystemError when the system refuses memory or executing it. */
  constructor({ numThreads, polls }: TeamOptions) {
    this.numThreads = numThreads;
    const codes = [emitProgram(), emitBegin(), emitWorker()];
    this.#code = loadCode(codes);
    const [run, begin, work] = this.#code.addresses as [Address, Address, Address];
    this.kernels = codes.map((code, i) => ({ code, address: this.#code.addresses[i]! }));
    this.#memory = allocateNative(TEAM_BYTES + numThreads * LINE_BYTES);
    this.#view = new DataView(this.#memory.buffer);
    this.#queued = new BigInt64Array(this.#memory.buffer, teamField.queued, 1);
    this.#set(teamField.run, run);
    this.#set(teamField.numThreads, numThreads);
    this.#set(teamField.numPolls, polls ? NUM_POLLS : 0);
    this.#set(teamField.queued, LEADER_IDLE);
    this.#begin = koffi.decode(BigInt(begin), teamCall);
    this.#signal = new StepSignal();
    const workers: number[] = [];
    for (let thread = 0; thread < numThreads; thread++) {
      const at = TEAM_BYTES + thread * LINE_BYTES;
      this.#set(at + workerField.team, this.#memory.address);
      this.#set(at + workerField.thread, thread);
      this.#set(at + workerField.signal, thread === 0 ? this.#signal.fd : -1);
      workers.push(createThread(work, this.#memory.address + at));
    }
    this.#workers = workers;
  }

  #set(field: number, value: number): void {
    this.#view.setBigInt64(field, BigInt(value), true);
  }

  /** Of the next step: counters of its ops must name it. */
  get nextGeneration(): number {
    return (this.#generation + 1) | 0;
  }

  /**
   * Runs the program that `emitProgram` takes, off the event loop: at once, or when the running step ends, which may be
   * before JavaScript hears of that. One step may be queued. The program's counters must have been reset.
   */
  async run(program: Address): Promise<void> {
    this.#enqueue(program);
    await this.#signal.wait();
    this.#numRunning--;
  }

  /** The same on the calling thread: tests and benchmarks. */
  runSync(program: Address): void {
    this.#enqueue(program);
    this.#signal.waitSync();
    this.#numRunning--;
  }

  #enqueue(program: Address): void {
    invariant(this.#numRunning < 2, 'a third step while one runs and one is queued');
    this.#numRunning++;
    this.#generation = this.nextGeneration;
    const before = Atomics.exchange(this.#queued, 0, BigInt(program));
    if (before !== BigInt(LEADER_IDLE)) return;
    // The leader does nothing before the generation changes.
    Atomics.store(this.#queued, 0, 0n);
    this.#set(teamField.program, program);
    this.#begin(this.#memory.address);
  }

  /** Ends the threads. Programs may be freed afterwards, and not before. */
  close(): void {
    invariant(this.#numRunning === 0, 'the team is closed under a running program');
    this.#set(teamField.stop, 1);
    this.#begin(this.#memory.address);
    for (const worker of this.#workers) joinThread(worker);
    this.#signal.close();
    this.#code.free();
    this.#memory.free();
  }
}
