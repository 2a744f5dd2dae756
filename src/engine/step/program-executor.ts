// Owns running step plans as one emitted program: full graph mode, nothing built or allocated between steps.
import { invariant } from '../../common/errors.ts';
import { viewMemory } from '../ffi/koffi.ts';
import type { PlacedCode } from '../jit/asm/exec-memory.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import type { Model } from '../models/model.ts';
import type { ModelProgram, PreparedStep } from '../program/model-program.ts';
import type { StepProgram } from '../program/program-builder.ts';
import type { StepLane } from '../program/step-lane.ts';
import { type StepOrder, samplerOutput } from '../program/step-order.ts';
import { outputKind, type StepOutput, type StepPlan } from '../scheduler/plan.ts';
import { readSampleResults } from '../sampler/sample-results.ts';
import type { Executor } from './executor.ts';
import type { KernelChoice } from './kernel-choice.ts';
import { checkPlan } from './plan-check.ts';

export interface ProgramExecutorOptions {
  readonly model: Model;
  readonly space: KvSpace;
  readonly program: ModelProgram;
  readonly choice: KernelChoice;
  readonly numericsId: string;
  /** Sees each step's raw logits [O,V], valid during the call: for tests that compare them. */
  readonly observe?: (plan: StepPlan, logits: Float32Array) => void;
}

/** Views of what a lane's steps leave. */
interface Results {
  readonly logits: Float32Array;
  readonly hidden: Float32Array;
  readonly results: Int32Array;
}

export class ProgramExecutor implements Executor {
  readonly choice: KernelChoice;
  /** Executors of equal id compute the same bits from equal weights. */
  readonly numericsId: string;
  readonly #options: ProgramExecutorOptions;
  readonly #blockTokens: readonly number[];
  readonly #results: ReadonlyMap<StepLane, Results>;
  #prepared: (PreparedStep & { readonly stepId: number }) | null = null;
  /** When the step before ended. */
  #endMs = 0;
  /** Of the step whose results were read last. */
  #lastProgram: StepProgram | null = null;

  constructor(options: ProgramExecutorOptions) {
    const { model, space, program } = options;
    this.#options = options;
    this.choice = options.choice;
    this.numericsId = options.numericsId;
    this.#blockTokens = space.layouts.map(({ blockTokens }) => blockTokens);
    const { maxOutputs, lanes } = program;
    const { hiddenSize, vocabSize } = model.config;
    const view = ({ results: { logits, hidden, results } }: StepLane): Results => ({
      logits: new Float32Array(viewMemory(logits.address, 4 * maxOutputs * vocabSize)),
      hidden: new Float32Array(viewMemory(hidden.address, 4 * maxOutputs * hiddenSize)),
      results: new Int32Array(viewMemory(results.address, maxOutputs * results.rowBytes)),
    });
    this.#results = new Map(lanes.map((lane) => [lane, view(lane)]));
  }

  /** All emitted code. */
  get kernels(): readonly PlacedCode[] {
    return this.#options.program.kernels;
  }

  /** For profilers: time stamps. */
  get programs(): readonly StepProgram[] {
    return this.#options.program.lanes.map(({ program }) => program);
  }

  get lastProgram(): StepProgram | null {
    return this.#lastProgram;
  }

  async prepare(plan: StepPlan): Promise<void> {
    const { model, space, program } = this.#options;
    checkPlan(plan, model.config.vocabSize, this.#blockTokens);
    await space.prepare(plan.groups);
    this.#prepared = { stepId: plan.stepId, ...program.prepare(plan) };
  }

  async run(plan: StepPlan): Promise<StepOutput> {
    invariant(this.#prepared?.stepId === plan.stepId, `step ${plan.stepId} was not prepared`);
    const { program, model } = this.#options;
    const { lane, order, asked } = this.#prepared;
    const queuedMs = performance.now();
    await program.run(this.#prepared);
    const endMs = performance.now();
    // A queued step begins when the one before ends.
    const computeMs = endMs - Math.max(queuedMs, this.#endMs);
    this.#endMs = endMs;
    const results = this.#results.get(lane);
    invariant(results, 'every lane has results');
    const { vocabSize, numIds, hiddenSize } = model.config;
    this.#options.observe?.(plan, logitsOf(order, results.logits, vocabSize));
    const bySlot = readSampleResults(asked, { ...results, vocabSize, numIds });
    const { tokenIds, logprobs, topLogprobs } = samplerOutput(bySlot, order);
    const hidden = hiddenOf(plan, results.hidden, hiddenSize, (output) => order.outputSlots[output]!);
    this.#lastProgram = lane.program;
    return { stepId: plan.stepId, tokenIds, logprobs, topLogprobs, ...hidden, graphMode: 'full', computeMs };
  }

  close(): Promise<void> {
    this.#options.program.free();
    return Promise.resolve();
  }
}

/** [O,V] in the plan's order: valid until the next step where that is the order in memory, else a copy. */
function logitsOf({ outputSlots, keepsOutputs }: StepOrder, logits: Float32Array, size: number): Float32Array {
  if (keepsOutputs) return logits.subarray(0, outputSlots.length * size);
  const copy = new Float32Array(outputSlots.length * size);
  for (const [output, slot] of outputSlots.entries()) {
    copy.set(logits.subarray(slot * size, (slot + 1) * size), output * size);
  }
  return copy;
}

/** Copies the states that were asked for: their memory is the next step's. `slotOf`: the row of an output. */
export function hiddenOf(
  plan: StepPlan,
  hidden: Float32Array,
  size: number,
  slotOf: (output: number) => number,
): Pick<StepOutput, 'hidden'> {
  if (!plan.outputKinds.includes(outputKind.hidden)) return {};
  const rows = Array.from(plan.outputKinds, (kind, i) => {
    return kind === outputKind.hidden ? hidden.slice(slotOf(i) * size, (slotOf(i) + 1) * size) : null;
  });
  return { hidden: rows };
}
