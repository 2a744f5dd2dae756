// Owns reading a plan's shape: what the step-time model predicts from.
import { addRow, noStep, type StepShape } from '../../common/step-time.ts';
import type { StepPlan } from './plan.ts';

export function shapeOfPlan({ numRows, rowStart, positions }: StepPlan): StepShape {
  let shape = noStep;
  for (let row = 0; row < numRows; row++) {
    const first = rowStart[row]!;
    shape = addRow(shape, positions[first]!, rowStart[row + 1]! - first);
  }
  return shape;
}
