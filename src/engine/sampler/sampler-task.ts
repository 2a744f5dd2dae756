// Owns what a step asks of its sampler, output by output, and what it gets back: alike for every sampler.
import { outputKind, type StepOutput, type StepPlan } from '../scheduler/plan.ts';
import type { SampleRow } from '../scheduler/sampling-params.ts';

/** The part of a plan that samplers read. */
export type SamplerInput = Pick<StepPlan, 'outputKinds' | 'targetIds' | 'sampling'>;

/** The part of a step's output that samplers make. */
export interface SamplerOutput extends Pick<StepOutput, 'tokenIds' | 'logprobs' | 'topLogprobs'> {
  /** [O] bits of `resultFlag`. */
  readonly flags: Uint8Array;
}

/** `sample`: choose a token. `target`: report on a given one. */
export type SamplerTask =
  | { readonly kind: 'skip' }
  | { readonly kind: 'sample'; readonly row: SampleRow }
  | { readonly kind: 'target'; readonly row: SampleRow; readonly targetId: number };

const skip: SamplerTask = { kind: 'skip' };

export function taskOf({ outputKinds, targetIds, sampling }: SamplerInput, output: number): SamplerTask {
  const row = sampling[output];
  if (!row) return skip;
  const targetId = targetIds[output];
  if (outputKinds[output] === outputKind.sample) return { kind: 'sample', row };
  if (outputKinds[output] !== outputKind.promptLogprobs || targetId === undefined || targetId < 0) return skip;
  return { kind: 'target', row, targetId };
}

/** Whether log-probabilities are part of the answer. */
export function wantsStats(task: SamplerTask): boolean {
  return task.kind === 'target' || (task.kind === 'sample' && task.row.numLogprobs >= 0);
}

/** Results to be filled in: what is not asked for is -1, NaN or null. */
export function emptyOutput(
  numOutputs: number,
): SamplerOutput & { readonly topLogprobs: StepOutput['topLogprobs'][number][] } {
  return {
    tokenIds: new Int32Array(numOutputs).fill(-1),
    logprobs: new Float32Array(numOutputs).fill(Number.NaN),
    topLogprobs: Array.from({ length: numOutputs }, () => null),
    flags: new Uint8Array(numOutputs),
  };
}
