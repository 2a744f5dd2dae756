// Owns what a step program reads of its step: counts, token ids, positions, outputs, at addresses that never change.
// Legend: T tokens, O outputs.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { MAX_STEP_TOKENS } from '../jit/kernels/op.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import type { StepOrder } from './step-order.ts';

interface Content {
  readonly tokenIds: Int32Array;
  readonly positions: Int32Array;
  readonly outputTokens: Int32Array;
}

/** Which rows of a step an op works on. */
export type RowSet = 'tokens' | 'outputs';
/** All of them, or those of one precision (`step-order.ts`). */
export type Precision = 'any' | 'precise' | 'plain';

const LINE_BYTES = 64;
/** Of two i64 in turn, number of rows and first one: where each set stands. */
const countsAt: Readonly<Record<RowSet, Readonly<Record<Precision, number>>>> = {
  tokens: { any: 0, precise: 2, plain: 4 },
  outputs: { any: 6, precise: 8, plain: 10 },
};
const COUNTS_BYTES = 2 * LINE_BYTES;

export class StepInputs {
  readonly maxTokens: number;
  readonly maxOutputs: number;
  readonly #memory: NativeMemory;
  readonly #counts: BigInt64Array;
  readonly #native: Content;
  readonly #tokensAt: number;
  readonly #positionsAt: number;
  readonly #outputsAt: number;
  /** The next step's, written while the one before still reads its own. */
  readonly #staged: Content;
  #numTokens = 0;
  #order: StepOrder | null = null;

  constructor(maxTokens: number, maxOutputs: number) {
    invariant(maxTokens <= MAX_STEP_TOKENS, `steps of ${maxTokens} tokens, kernels count to ${MAX_STEP_TOKENS}`);
    this.maxTokens = maxTokens;
    this.maxOutputs = maxOutputs;
    const lines = (elements: number) => Math.ceil((elements * 4) / LINE_BYTES) * LINE_BYTES;
    this.#tokensAt = COUNTS_BYTES;
    this.#positionsAt = this.#tokensAt + lines(maxTokens);
    this.#outputsAt = this.#positionsAt + lines(maxTokens);
    this.#memory = allocateNative(this.#outputsAt + lines(maxOutputs));
    const { buffer } = this.#memory;
    this.#counts = new BigInt64Array(buffer, 0, COUNTS_BYTES / 8);
    this.#native = {
      tokenIds: new Int32Array(buffer, this.#tokensAt, maxTokens),
      positions: new Int32Array(buffer, this.#positionsAt, maxTokens),
      outputTokens: new Int32Array(buffer, this.#outputsAt, maxOutputs),
    };
    this.#staged = {
      tokenIds: new Int32Array(maxTokens),
      positions: new Int32Array(maxTokens),
      outputTokens: new Int32Array(maxOutputs),
    };
  }

  /** Two i64, as `opField.rows` wants them. */
  rows(set: RowSet, precision: Precision = 'any'): Address {
    return this.#memory.address + 8 * countsAt[set][precision];
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

  /** For the step after the running one. Throws when the plan is larger than the program's memory. */
  stage(plan: StepPlan, order: StepOrder): void {
    const { numTokens, outputToken, previousOutput, rowStart } = plan;
    invariant(numTokens <= this.maxTokens, `a step of ${numTokens} tokens, ${this.maxTokens} fit`);
    invariant(outputToken.length <= this.maxOutputs, `${outputToken.length} outputs, ${this.maxOutputs} fit`);
    const staged = this.#staged;
    const { tokenSlots, outputSlots } = order;
    const previousSlots = this.#order?.outputSlots;
    for (let token = 0; token < numTokens; token++) {
      staged.tokenIds[tokenSlots[token]!] = plan.tokenIds[token]!;
      staged.positions[tokenSlots[token]!] = plan.positions[token]!;
    }
    for (let i = 0; i < outputToken.length; i++) {
      staged.outputTokens[outputSlots[i]!] = tokenSlots[outputToken[i]!]!;
    }
    for (let row = 0; row < plan.numRows; row++) {
      const output = previousOutput[row]!;
      if (output < 0) continue;
      const slot = previousSlots?.[output];
      invariant(slot !== undefined, `the step before had no output ${output}`);
      staged.tokenIds[tokenSlots[rowStart[row]!]!] = -1 - slot;
    }
    this.#numTokens = numTokens;
    this.#order = order;
  }

  /** What was staged is what the next step reads. No step may be running. */
  publish(): void {
    const staged = this.#staged;
    const { tokenIds, positions, outputTokens } = this.#native;
    invariant(this.#order, 'no step was staged');
    const { numPreciseTokens, numPreciseOutputs, outputSlots } = this.#order;
    this.#setCounts('tokens', this.#numTokens, numPreciseTokens);
    this.#setCounts('outputs', outputSlots.length, numPreciseOutputs);
    for (let i = 0; i < this.#numTokens; i++) {
      tokenIds[i] = staged.tokenIds[i]!;
      positions[i] = staged.positions[i]!;
    }
    for (let i = 0; i < outputSlots.length; i++) outputTokens[i] = staged.outputTokens[i]!;
  }

  #setCounts(set: RowSet, numRows: number, numPrecise: number): void {
    const at = countsAt[set];
    this.#counts[at.any] = BigInt(numRows);
    this.#counts[at.precise] = BigInt(numPrecise);
    this.#counts[at.plain] = BigInt(numRows - numPrecise);
    this.#counts[at.plain + 1] = BigInt(numPrecise);
  }

  free(): void {
    this.#memory.free();
  }
}
