// Owns the check of a plan before native code sees it: ggml aborts the process on an id or index out of range.
import { isForeign } from '../kv/page-ref.ts';
import type { StepPlan } from '../scheduler/plan.ts';

/**
 * Throws where the plan is not what plan.ts says: a bug of the scheduler. Linear in tokens, and run in every step:
 * messages are made only when they are needed. `blockTokens`: of each cache group.
 */
export function checkPlan(plan: StepPlan, vocabSize: number, blockTokens: readonly number[]): void {
  const { numTokens, numRows, tokenIds, positions, rowStart } = plan;
  if (numTokens < 1 || numRows < 1) fail(plan, 'no tokens');
  if (tokenIds.length !== numTokens || positions.length !== numTokens) fail(plan, 'token arrays of another length');
  if (rowStart.length !== numRows + 1 || rowStart[0] !== 0 || rowStart[numRows] !== numTokens) {
    fail(plan, 'wrong row borders');
  }
  for (let row = 0; row < numRows; row++) {
    checkRow(plan, row, vocabSize);
    checkPages(plan, row, blockTokens);
  }
  checkOutputs(plan, vocabSize);
}

function fail(plan: StepPlan, what: string): never {
  throw new Error(`invariant broken: step ${plan.stepId}: ${what}`);
}

function checkRow(plan: StepPlan, row: number, vocabSize: number): void {
  const { tokenIds, positions, rowStart, previousOutput } = plan;
  const first = rowStart[row]!;
  const end = rowStart[row + 1]!;
  if (first >= end) fail(plan, `row ${row} is empty`);
  const start = positions[first]!;
  if (start < 0) fail(plan, `row ${row} has a negative position`);
  for (let token = first; token < end; token++) {
    if (positions[token] !== start + token - first) fail(plan, `row ${row} has a gap`);
    const id = tokenIds[token]!;
    if (id >= 0 && id < vocabSize) continue;
    const isPlaceholder = id === -1 && token === first && previousOutput[row]! >= 0;
    if (!isPlaceholder) fail(plan, `token id ${id} is out of range`);
  }
}

/** The blocks that a row writes must be pages that have memory; the kernels would write anywhere. */
function checkPages(plan: StepPlan, row: number, blockTokens: readonly number[]): void {
  const { positions, rowStart, groups } = plan;
  const first = positions[rowStart[row]!]!;
  const last = positions[rowStart[row + 1]! - 1]!;
  for (let g = 0; g < groups.length; g++) {
    const { pageStart, pages, numPagesTouched } = groups[g]!;
    const tokens = blockTokens[g];
    if (!tokens) return fail(plan, `no KV group ${g}`);
    const start = pageStart[row]!;
    for (let block = Math.floor(first / tokens); block <= Math.floor(last / tokens); block++) {
      const page = start + block < pageStart[row + 1]! ? pages[start + block]! : -1;
      if (page < 0 || (page >= numPagesTouched && !isForeign(page)))
        fail(plan, `row ${row} has no page for block ${block} of KV group ${g}`);
    }
  }
}

function checkOutputs(plan: StepPlan, vocabSize: number): void {
  const { numRows, rowStart, outputToken, outputRow, targetIds } = plan;
  for (let i = 0; i < outputToken.length; i++) {
    const row = outputRow[i]!;
    const token = outputToken[i]!;
    if (row < 0 || row >= numRows) fail(plan, `output ${i} has no row`);
    if (token < rowStart[row]! || token >= rowStart[row + 1]!) fail(plan, `output ${i} is outside its row`);
    const target = targetIds[i]!;
    if (target < -1 || target >= vocabSize) fail(plan, `target id ${target} is out of range`);
  }
}
