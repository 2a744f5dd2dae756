// Owns the check of a plan before native code sees it: ggml aborts the process on an id or index out of range.
import { invariant } from '../../common/errors.ts';
import type { StepPlan } from '../scheduler/plan.ts';

/** Throws where the plan is not what plan.ts says: a bug of the scheduler. Linear in tokens. */
export function checkPlan(plan: StepPlan, vocabSize: number): void {
  const { numTokens, numRows, tokenIds, positions, rowStart, previousOutput, outputToken, outputRow } = plan;
  const require = (condition: boolean, what: string) => invariant(condition, `step ${plan.stepId}: ${what}`);
  require(numTokens > 0 && numRows > 0, 'no tokens');
  require(tokenIds.length === numTokens && positions.length === numTokens, 'token arrays of another length');
  require(rowStart.length === numRows + 1 && rowStart[0] === 0 && rowStart[numRows] === numTokens, 'wrong row borders');
  for (let row = 0; row < numRows; row++) {
    const first = rowStart[row]!;
    const end = rowStart[row + 1]!;
    require(first < end, `row ${row} is empty`);
    require(positions[first]! >= 0, `row ${row} has a negative position`);
    for (let token = first; token < end; token++) {
      require(positions[token] === positions[first]! + token - first, `row ${row} has a gap`);
      const id = tokenIds[token]!;
      const isPlaceholder = id === -1 && token === first && previousOutput[row]! >= 0;
      require(isPlaceholder || (id >= 0 && id < vocabSize), `token id ${id} is out of range`);
    }
    for (const tables of plan.groups) checkPages(plan, tables, row, positions[end - 1]!);
  }
  for (let i = 0; i < outputToken.length; i++) {
    const row = outputRow[i]!;
    const token = outputToken[i]!;
    require(row >= 0 && row < numRows, `output ${i} has no row`);
    require(token >= rowStart[row]! && token < rowStart[row + 1]!, `output ${i} is outside its row`);
    const target = plan.targetIds[i]!;
    require(target >= -1 && target < vocabSize, `target id ${target} is out of range`);
  }
}

function checkPages(plan: StepPlan, tables: StepPlan['groups'][number], row: number, lastPosition: number): void {
  const numPages = tables.pageStart[row + 1]! - tables.pageStart[row]!;
  // The smallest block is one token; the exact count is the KV cache's business.
  invariant(numPages > 0 && numPages <= lastPosition + 1, `step ${plan.stepId}: row ${row} has ${numPages} pages`);
}
