// Owns the executor seam: the only thing that the simulator and the timed device replace.
import type { StepOutput, StepPlan } from '../scheduler/plan.ts';

export interface Executor {
  /**
   * Makes a plan runnable: maps its pages, fills its inputs. May run while the previous step computes,
   * so it must not touch anything that a running step can read.
   */
  prepare(plan: StepPlan): Promise<void>;
  /**
   * Runs the plan prepared last, or, if one is running, queues it to begin when that ends; none is prepared before then.
   * Placeholders are taken from the previous run's output. Rejects only on a bug.
   */
  run(plan: StepPlan): Promise<StepOutput>;
  close(): Promise<void>;
}
