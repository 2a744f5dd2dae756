// Owns the check of a plan before native code sees it: ggml aborts the process on an id or index out of range.
import { invariant } from '../../common/errors.ts';
import type { StepPlan } from '../scheduler/plan.ts';

/**
 * Throws where the plan is not what plan.ts says: a bug of the scheduler. Linear in tokens.
 * `blockTokens`: of each cache group.
 */
export function checkPlan(plan: StepPlan, vocabSize: number, blockTokens: readonly number[]): void {
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
    checkPages(plan, row, blockTokens);
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

/** The blocks that a row writes must be pages that have memory; the kernels would write anywhere. */
function checkPages(plan: StepPlan, row: number, blockTokens: readonly number[]): void {
  const first = plan.positions[plan.rowStart[row]!]!;
  const last = plan.positions[plan.rowStart[row + 1]! - 1]!;
  for (const [g, { pageStart, pages, numPagesTouched }] of plan.groups.entries()) {
    const tokens = blockTokens[g];
    invariant(tokens, `step ${plan.stepId}: no KV group ${g}`);
    const start = pageStart[row]!;
    for (let block = Math.floor(first / tokens); block <= Math.floor(last / tokens); block++) {
      const page = start + block < pageStart[row + 1]! ? pages[start + block]! : -1;
      invariant(
        page >= 0 && page < numPagesTouched,
        `step ${plan.stepId}: row ${row} has no page for block ${block} of KV group ${g}`,
      );
    }
  }
}
