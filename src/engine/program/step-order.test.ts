import fc from 'fast-check';
import { expect, test } from 'vitest';
import { outputKind, type StepPlan } from '../scheduler/plan.ts';
import { NUM_PRECISE_POSITIONS, orderStep, samplerInput, samplerOutput } from './step-order.ts';

interface Row {
  readonly position: number;
  readonly numTokens: number;
  /** Its last tokens have outputs. */
  readonly numOutputs: number;
}

function planOf(rows: readonly Row[]): StepPlan {
  const positions: number[] = [];
  const [rowStart, outputToken, outputRow] = [[0], [] as number[], [] as number[]];
  for (const [row, { position, numTokens, numOutputs }] of rows.entries()) {
    for (let i = 0; i < numTokens; i++) positions.push(position + i);
    for (let i = Math.max(0, numTokens - numOutputs); i < numTokens; i++) {
      outputToken.push(positions.length - numTokens + i);
      outputRow.push(row);
    }
    rowStart.push(positions.length);
  }
  const numOutputs = outputToken.length;
  return {
    stepId: 1,
    numTokens: positions.length,
    numRows: rows.length,
    tokenIds: Int32Array.from(positions, (_, i) => i),
    positions: Int32Array.from(positions),
    rowStart: Int32Array.from(rowStart),
    sequenceIds: rows.map((_, i) => i),
    previousOutput: new Int32Array(rows.length).fill(-1),
    adapterSlot: new Int32Array(rows.length),
    outputToken: Int32Array.from(outputToken),
    outputRow: Int32Array.from(outputRow),
    outputKinds: new Uint8Array(numOutputs).fill(outputKind.promptLogprobs),
    targetIds: Int32Array.from(outputToken, (_, i) => 100 + i),
    sampling: [],
    groups: [],
  };
}

const rows = fc.array(
  fc.record({
    position: fc.oneof(fc.nat(200), fc.integer({ min: NUM_PRECISE_POSITIONS - 3, max: NUM_PRECISE_POSITIONS + 3 })),
    numTokens: fc.integer({ min: 1, max: 90 }),
    numOutputs: fc.nat(3),
  }),
  { minLength: 1, maxLength: 12 },
);

test('precise tokens and outputs come first, each has one slot, and rows keep their order', () => {
  fc.assert(
    fc.property(rows, (all) => {
      const plan = planOf(all);
      const { parts, tokenSlots, numPreciseTokens, outputSlots, numPreciseOutputs, keepsOutputs } = orderStep(plan);
      const places = Array.from({ length: plan.numTokens }, (_, i) => i);
      expect([...tokenSlots].sort((a, b) => a - b)).toEqual(places);
      for (const [token, slot] of tokenSlots.entries()) {
        expect(slot < numPreciseTokens).toBe(plan.positions[token]! < NUM_PRECISE_POSITIONS);
      }
      const inSlots = parts.flatMap(({ firstToken, numTokens }) =>
        Array.from({ length: numTokens }, (_, i) => firstToken + i),
      );
      expect(inSlots.map((token) => tokenSlots[token])).toEqual(places);
      for (const { row, firstToken, numTokens } of parts) {
        expect(firstToken).toBeGreaterThanOrEqual(plan.rowStart[row]!);
        expect(firstToken + numTokens).toBeLessThanOrEqual(plan.rowStart[row + 1]!);
      }
      expect([...outputSlots].sort((a, b) => a - b)).toEqual(places.slice(0, outputSlots.length));
      for (const [output, slot] of outputSlots.entries()) {
        expect(slot < numPreciseOutputs).toBe(plan.positions[plan.outputToken[output]!]! < NUM_PRECISE_POSITIONS);
      }
      expect(keepsOutputs).toBe(outputSlots.every((slot, output) => slot === output));
    }),
  );
});

test('what the sampler is asked by slot comes back by output', () => {
  fc.assert(
    fc.property(rows, (all) => {
      const plan = planOf(all);
      const order = orderStep(plan);
      const { targetIds } = samplerInput(plan, order);
      const bySlot = {
        tokenIds: targetIds,
        logprobs: Float32Array.from(targetIds),
        topLogprobs: Array.from(targetIds, () => null),
        flags: new Uint8Array(targetIds.length),
      };
      const { tokenIds, logprobs } = samplerOutput(bySlot, order);
      expect([...tokenIds]).toEqual([...plan.targetIds]);
      expect([...logprobs]).toEqual([...plan.targetIds]);
    }),
  );
});
