// Owns what one of two steps in turn reads and leaves: inputs, KV and sample blocks, results; and its program.
import type { SamplerInput } from '../sampler/sampler-task.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import type { ResultBuffers } from './buffers.ts';
import type { KvSteps } from './kv-steps.ts';
import type { StepProgram } from './program-builder.ts';
import type { SampleSteps } from './sample-steps.ts';
import type { StepInputs } from './step-inputs.ts';
import type { StepOrder } from './step-order.ts';

/** The inputs of a lane, before it has a program. */
export interface LaneInputs {
  readonly inputs: StepInputs;
  readonly kv: KvSteps;
  readonly samples: SampleSteps;
  readonly results: ResultBuffers;
}

export interface StepLane extends LaneInputs {
  readonly program: StepProgram;
}

/** Makes the plan the lane's next step. None may be running on it. */
export function writeStep(
  lane: LaneInputs,
  plan: StepPlan,
  order: StepOrder,
  asked: SamplerInput,
  before: StepOrder | null,
  generation: number,
): void {
  // First of all: from here on, threads that are late by a step find nothing to do.
  lane.inputs.begin(generation);
  lane.inputs.write(plan, order, before);
  lane.kv.write(plan, order);
  lane.samples.write(asked);
}

export function freeLane({ inputs, kv, samples }: LaneInputs): void {
  inputs.free();
  kv.free();
  samples.free();
}
