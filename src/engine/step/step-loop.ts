// Owns the step loop: plan, run, commit, with the next step planned while the current one computes (design 3.1).
import type { Clock } from '../../common/clock.ts';
import type { StepOutput, StepPlan } from '../scheduler/plan.ts';
import type { Executor } from './executor.ts';

/** What the loop needs of a scheduler. `Update` is what a commit tells of one sequence. */
export interface StepScheduler<Update> {
  /** null: nothing can run now. May be called while one plan is in flight. */
  plan(nowMs: number): StepPlan | null;
  commit(plan: StepPlan, output: StepOutput, nowMs: number): readonly Update[];
}

export interface StepLoopOptions<Update> {
  readonly scheduler: StepScheduler<Update>;
  readonly executor: Executor;
  readonly clock: Clock;
  /** Plan step i+1 while step i computes. Output is the same either way. */
  readonly asyncScheduling: boolean;
  readonly onCommit: (plan: StepPlan, output: StepOutput, updates: readonly Update[]) => void;
  /** The executor failed: a bug, after which no state can be trusted. */
  readonly onFailure: (error: unknown) => void;
}

interface InFlight {
  readonly plan: StepPlan;
  readonly result: Promise<StepOutput>;
}

export class StepLoop<Update> {
  readonly #options: StepLoopOptions<Update>;
  #isRunning = false;
  #ended: Promise<void> = Promise.resolve();
  #closed = false;
  #numSteps = 0;
  #lastProgressMs: number;
  #eventLoopCpuUs = 0;

  constructor(options: StepLoopOptions<Update>) {
    this.#options = options;
    this.#lastProgressMs = options.clock.nowMs();
  }

  get numSteps(): number {
    return this.#numSteps;
  }

  /** CPU time of the event-loop thread while steps ran, in microseconds: planning, commits, RPC, everything on it. */
  get eventLoopCpuUs(): number {
    return this.#eventLoopCpuUs;
  }

  /** Milliseconds since the last step while work is pending; 0 when idle. */
  get stalledMs(): number {
    return this.#isRunning ? Math.max(0, this.#options.clock.nowMs() - this.#lastProgressMs) : 0;
  }

  /** Call after anything that may give the scheduler work. Cheap when the loop is running. */
  wake(): void {
    if (this.#isRunning || this.#closed) return;
    this.#isRunning = true;
    this.#lastProgressMs = this.#options.clock.nowMs();
    this.#ended = this.#drive().catch((error: unknown) => {
      this.#isRunning = false;
      this.#options.onFailure(error);
    });
  }

  /** Resolves when the step in flight has been committed; nothing starts afterwards. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#ended;
  }

  async #drive(): Promise<void> {
    const { scheduler, executor, clock, asyncScheduling } = this.#options;
    let cpuUs = threadCpuUs();
    let current: InFlight | null = null;
    while (!this.#closed) {
      if (!current) {
        const plan = scheduler.plan(clock.nowMs());
        if (!plan) break;
        await executor.prepare(plan);
        current = { plan, result: executor.run(plan) };
      }
      const next = asyncScheduling ? scheduler.plan(clock.nowMs()) : null;
      if (next) await executor.prepare(next);
      // Queued: the next step begins when this one ends, whatever the event loop is busy with then.
      const following: InFlight | null = next ? { plan: next, result: executor.run(next) } : null;
      // Its failure is heard when its turn comes.
      following?.result.catch(() => {});
      const output = await current.result;
      this.#commit(current.plan, output);
      const cpuNowUs = threadCpuUs();
      this.#eventLoopCpuUs += cpuNowUs - cpuUs;
      cpuUs = cpuNowUs;
      current = following;
    }
    if (current) this.#commit(current.plan, await current.result);
    // Without a break since the last plan: who wakes the loop from now on is heard.
    this.#isRunning = false;
  }

  #commit(plan: StepPlan, output: StepOutput): void {
    const { scheduler, clock, onCommit } = this.#options;
    const nowMs = clock.nowMs();
    const updates = scheduler.commit(plan, output, nowMs);
    this.#numSteps++;
    this.#lastProgressMs = nowMs;
    onCommit(plan, output, updates);
  }
}

/** CPU time of this thread alone, microseconds: the compute threads' share is not in it. */
function threadCpuUs(): number {
  const { user, system } = process.threadCpuUsage();
  return user + system;
}
