// Owns the order in which a step program takes the tokens and outputs of a plan: those of precise positions first.
// Legend: T tokens, O outputs.
import type { SamplerInput, SamplerOutput } from '../sampler/sampler-task.ts';
import type { StepPlan } from '../scheduler/plan.ts';

/**
 * Positions below it keep about 15 bits of their activations in products with integer weights, later ones 7. Every later
 * token attends to the first ones, whose activations are the largest of all (attention sinks), and a short question is
 * answered as the weights say and not as the rounding of activations happens to fall; a long prompt costs hardly more.
 * It depends on the position alone, so that a token's bits are the same in every batch, and cached blocks fit.
 */
export const NUM_PRECISE_POSITIONS = 48;

/** Consecutive tokens of one row of the plan that are of one precision. */
export interface RowPart {
  readonly row: number;
  /** Its first token in the plan. */
  readonly firstToken: number;
  readonly numTokens: number;
}

export interface StepOrder {
  /** Slots are counted through them: the precise ones come first. */
  readonly parts: readonly RowPart[];
  readonly numPreciseTokens: number;
  /** [T] of the plan's tokens. */
  readonly tokenSlots: Int32Array;
  readonly numPreciseOutputs: number;
  /** [O] of the plan's outputs. */
  readonly outputSlots: Int32Array;
  /** Whether every output has its own number as slot. */
  readonly keepsOutputs: boolean;
}

export function orderStep({ numTokens, numRows, rowStart, positions, outputToken }: StepPlan): StepOrder {
  const [precise, others]: [RowPart[], RowPart[]] = [[], []];
  for (let row = 0; row < numRows; row++) {
    const firstToken = rowStart[row]!;
    const all = rowStart[row + 1]! - firstToken;
    const numPrecise = Math.max(0, Math.min(all, NUM_PRECISE_POSITIONS - positions[firstToken]!));
    if (numPrecise > 0) precise.push({ row, firstToken, numTokens: numPrecise });
    if (numPrecise < all) others.push({ row, firstToken: firstToken + numPrecise, numTokens: all - numPrecise });
  }
  const parts = [...precise, ...others];
  const numPreciseTokens = precise.reduce((sum, part) => sum + part.numTokens, 0);
  const tokenSlots = new Int32Array(numTokens);
  let slot = 0;
  for (const part of parts) {
    for (let i = 0; i < part.numTokens; i++) tokenSlots[part.firstToken + i] = slot++;
  }
  return { parts, numPreciseTokens, tokenSlots, ...orderOutputs(outputToken, tokenSlots, numPreciseTokens) };
}

function orderOutputs(
  outputToken: Int32Array,
  tokenSlots: Int32Array,
  numPreciseTokens: number,
): Pick<StepOrder, 'numPreciseOutputs' | 'outputSlots' | 'keepsOutputs'> {
  const isPrecise = (output: number) => tokenSlots[outputToken[output]!]! < numPreciseTokens;
  const outputSlots = new Int32Array(outputToken.length);
  let numPreciseOutputs = 0;
  for (let output = 0; output < outputSlots.length; output++) {
    if (isPrecise(output)) outputSlots[output] = numPreciseOutputs++;
  }
  let slot = numPreciseOutputs;
  for (let output = 0; output < outputSlots.length; output++) if (!isPrecise(output)) outputSlots[output] = slot++;
  return { numPreciseOutputs, outputSlots, keepsOutputs: outputSlots.every((at, output) => at === output) };
}

/** What the sampler is asked, slot by slot. */
export function samplerInput(plan: StepPlan, { outputSlots, keepsOutputs }: StepOrder): SamplerInput {
  if (keepsOutputs) return plan;
  const outputKinds = new Uint8Array(outputSlots.length);
  const targetIds = new Int32Array(outputSlots.length);
  const sampling: SamplerInput['sampling'][number][] = Array(outputSlots.length);
  for (const [output, slot] of outputSlots.entries()) {
    outputKinds[slot] = plan.outputKinds[output]!;
    targetIds[slot] = plan.targetIds[output]!;
    sampling[slot] = plan.sampling[output]!;
  }
  return { outputKinds, targetIds, sampling };
}

/** What was sampled, output by output of the plan. */
export function samplerOutput(bySlot: SamplerOutput, { outputSlots, keepsOutputs }: StepOrder): SamplerOutput {
  if (keepsOutputs) return bySlot;
  return {
    tokenIds: outputSlots.map((slot) => bySlot.tokenIds[slot]!),
    logprobs: Float32Array.from(outputSlots, (slot) => bySlot.logprobs[slot]!),
    topLogprobs: Array.from(outputSlots, (slot) => bySlot.topLogprobs[slot] ?? null),
    flags: Uint8Array.from(outputSlots, (slot) => bySlot.flags[slot]!),
  };
}
