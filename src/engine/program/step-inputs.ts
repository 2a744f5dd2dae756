// Owns what a step program reads of its step: counts, token ids, positions, outputs, at addresses that never change.
// Legend: T tokens, O outputs.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { ROWS_BYTES, rowsField } from '../jit/kernels/op.ts';
import { MAX_STEP_TOKENS, type StepPlan } from '../scheduler/plan.ts';
import type { StepOrder } from './step-order.ts';

/** Which rows of a step an op works on. */
export type RowSet = 'tokens' | 'outputs';
/** All of them, or those of one precision (`step-order.ts`). */
export type Precision = 'any' | 'precise' | 'plain';

const LINE_BYTES = 64;
/** Where each set stands among the rows. */
const rowsAt: Readonly<Record<RowSet, Readonly<Record<Precision, number>>>> = {
  tokens: { any: 0, precise: 1, plain: 2 },
  outputs: { any: 3, precise: 4, plain: 5 },
};
const NUM_ROWS = 6;
const ALL_ROWS_BYTES = Math.ceil((NUM_ROWS * ROWS_BYTES) / LINE_BYTES) * LINE_BYTES;

export class StepInputs {
  readonly maxTokens: number;
  readonly maxOutputs: number;
  readonly #memory: NativeMemory;
  readonly #rows: BigInt64Array;
  readonly #tokenIds: Int32Array;
  readonly #positions: Int32Array;
  readonly #outputTokens: Int32Array;
  readonly #tokensAt: number;
  readonly #positionsAt: number;
  readonly #outputsAt: number;
  constructor(maxTokens: number, maxOutputs: number) {
    invariant(maxTokens <= MAX_STEP_TOKENS, `steps of ${maxTokens} tokens, kernels count to ${MAX_STEP_TOKENS}`);
    this.maxTokens = maxTokens;
    this.maxOutputs = maxOutputs;
    const lines = (elements: number) => Math.ceil((elements * 4) / LINE_BYTES) * LINE_BYTES;
    this.#tokensAt = ALL_ROWS_BYTES;
    this.#positionsAt = this.#tokensAt + lines(maxTokens);
    this.#outputsAt = this.#positionsAt + lines(maxTokens);
    this.#memory = allocateNative(this.#outputsAt + lines(maxOutputs));
    const { buffer } = this.#memory;
    this.#rows = new BigInt64Array(buffer, 0, ALL_ROWS_BYTES / 8);
    this.#tokenIds = new Int32Array(buffer, this.#tokensAt, maxTokens);
    this.#positions = new Int32Array(buffer, this.#positionsAt, maxTokens);
    this.#outputTokens = new Int32Array(buffer, this.#outputsAt, maxOutputs);
  }

  /** As `opField.rows` wants them. */
  rows(set: RowSet, precision: Precision = 'any'): Address {
    return this.#memory.address + ROWS_BYTES * rowsAt[set][precision];
  }

  /** I32 [T] in the step's order; an id below 0 names a result of the step before: -1 - its slot. */
  get tokenIds(): Address {
    return this.#memory.address + this.#tokensAt;
  }

  /** I32 [T] */
  get positions(): Address {
    return this.#memory.address + this.#positionsAt;
  }

  /** I32 [O]: slots of the tokens that have outputs. */
  get outputTokens(): Address {
    return this.#memory.address + this.#outputsAt;
  }

  /**
   * For the next step; none that reads these inputs may be running. `before`: the order of the step before, whose
   * results placeholders name. Throws when the plan is larger than the program's memory.
   */
  write(plan: StepPlan, order: StepOrder, before: StepOrder | null): void {
    const { numTokens, outputToken, previousOutput, rowStart } = plan;
    invariant(numTokens <= this.maxTokens, `a step of ${numTokens} tokens, ${this.maxTokens} fit`);
    invariant(outputToken.length <= this.maxOutputs, `${outputToken.length} outputs, ${this.maxOutputs} fit`);
    const { tokenSlots, outputSlots } = order;
    for (let token = 0; token < numTokens; token++) {
      this.#tokenIds[tokenSlots[token]!] = plan.tokenIds[token]!;
      this.#positions[tokenSlots[token]!] = plan.positions[token]!;
    }
    for (let i = 0; i < outputToken.length; i++) {
      this.#outputTokens[outputSlots[i]!] = tokenSlots[outputToken[i]!]!;
    }
    for (let row = 0; row < plan.numRows; row++) {
      const output = previousOutput[row]!;
      if (output < 0) continue;
      const slot = before?.outputSlots[output];
      invariant(slot !== undefined, `the step before had no output ${output}`);
      this.#tokenIds[tokenSlots[rowStart[row]!]!] = -1 - slot;
    }
    this.#setCounts('tokens', numTokens, order.numPreciseTokens);
    this.#setCounts('outputs', outputSlots.length, order.numPreciseOutputs);
  }

  /** Before anything else of a step is written; its generation. */
  begin(generation: number): void {
    for (let i = 0; i < NUM_ROWS; i++) this.#set(i, rowsField.generation, generation);
  }

  #setCounts(set: RowSet, numRows: number, numPrecise: number): void {
    const at = rowsAt[set];
    this.#set(at.any, rowsField.count, numRows);
    this.#set(at.precise, rowsField.count, numPrecise);
    this.#set(at.plain, rowsField.count, numRows - numPrecise);
    this.#set(at.plain, rowsField.first, numPrecise);
  }

  #set(rows: number, field: number, value: number): void {
    this.#rows[(rows * ROWS_BYTES + field) / 8] = BigInt(value);
  }

  free(): void {
    this.#memory.free();
  }
}
