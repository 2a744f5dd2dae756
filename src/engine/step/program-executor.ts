// Owns running step plans as one emitted program: full graph mode, nothing built or allocated between steps.
import { invariant } from '../../common/errors.ts';
import { viewMemory } from '../ffi/koffi.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import type { Model } from '../models/model.ts';
import type { ModelProgram } from '../program/model-program.ts';
import { type StepOrder, samplerInput, samplerOutput } from '../program/step-order.ts';
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

export class ProgramExecutor implements Executor {
  readonly choice: KernelChoice;
  /** Executors of equal id compute the same bits from equal weights. */
  readonly numericsId: string;
  readonly #options: ProgramExecutorOptions;
  readonly #blockTokens: readonly number[];
  readonly #logits: Float32Array;
  readonly #hidden: Float32Array;
  readonly #results: Int32Array;
  #prepared: { readonly stepId: number; readonly order: StepOrder } | null = null;

  constructor(options: ProgramExecutorOptions) {
    const { model, space, program } = options;
    this.#options = options;
    this.choice = options.choice;
    this.numericsId = options.numericsId;
    this.#blockTokens = space.layouts.map(({ blockTokens }) => blockTokens);
    const { maxOutputs, buffers } = program;
    const { hiddenSize, vocabSize } = model.config;
    this.#logits = new Float32Array(viewMemory(buffers.logits.address, 4 * maxOutputs * vocabSize));
    this.#hidden = new Float32Array(viewMemory(buffers.hidden.address, 4 * maxOutputs * hiddenSize));
    this.#results = new Int32Array(viewMemory(buffers.results.address, maxOutputs * buffers.results.rowBytes));
  }

  /** For profilers: time stamps and code. */
  get program(): ModelProgram['program'] {
    return this.#options.program.program;
  }

  async prepare(plan: StepPlan): Promise<void> {
    const { model, space, program } = this.#options;
    checkPlan(plan, model.config.vocabSize, this.#blockTokens);
    await space.prepare(plan.groups);
    this.#prepared = { stepId: plan.stepId, order: program.stage(plan) };
  }

  async run(plan: StepPlan): Promise<StepOutput> {
    invariant(this.#prepared?.stepId === plan.stepId, `step ${plan.stepId} was not prepared`);
    const { order } = this.#prepared;
    const { program, model } = this.#options;
    const startMs = performance.now();
    await program.run();
    const computeMs = performance.now() - startMs;
    const { vocabSize, numIds, hiddenSize } = model.config;
    this.#options.observe?.(plan, logitsOf(order, this.#logits, vocabSize));
    const sources = { results: this.#results, logits: this.#logits, vocabSize, numIds };
    const bySlot = readSampleResults(samplerInput(plan, order), sources);
    const { tokenIds, logprobs, topLogprobs } = samplerOutput(bySlot, order);
    const hidden = hiddenOf(plan, this.#hidden, hiddenSize, (output) => order.outputSlots[output]!);
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
