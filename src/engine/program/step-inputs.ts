// Owns what a step program reads of its step: counts, token ids, positions, outputs, at addresses that never change.
// Legend: T tokens, O outputs.
import { invariant } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { StepPlan } from '../scheduler/plan.ts';

interface Content {
  readonly tokenIds: Int32Array;
  readonly positions: Int32Array;
  readonly outputTokens: Int32Array;
}

const LINE_BYTES = 64;

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
  #numOutputs = 0;

  constructor(maxTokens: number, maxOutputs: number) {
    this.maxTokens = maxTokens;
    this.maxOutputs = maxOutputs;
    const lines = (elements: number) => Math.ceil((elements * 4) / LINE_BYTES) * LINE_BYTES;
    this.#tokensAt = LINE_BYTES;
    this.#positionsAt = this.#tokensAt + lines(maxTokens);
    this.#outputsAt = this.#positionsAt + lines(maxTokens);
    this.#memory = allocateNative(this.#outputsAt + lines(maxOutputs));
    const { buffer } = this.#memory;
    this.#counts = new BigInt64Array(buffer, 0, 2);
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

  /** i64: T. */
  get numTokens(): Address {
    return this.#memory.address;
  }

  /** i64: O. */
  get numOutputs(): Address {
    return this.#memory.address + 8;
  }

  /** I32 [T]; an id below 0 names a result of the step before: -1 - its output. */
  get tokenIds(): Address {
    return this.#memory.address + this.#tokensAt;
  }

  /** I32 [T] */
  get positions(): Address {
    return this.#memory.address + this.#positionsAt;
  }

  /** I32 [O]: the tokens that have outputs. */
  get outputTokens(): Address {
    return this.#memory.address + this.#outputsAt;
  }

  /** For the step after the running one. Throws when the plan is larger than the program's memory. */
  stage(plan: StepPlan): void {
    const { numTokens, outputToken, previousOutput, rowStart } = plan;
    invariant(numTokens <= this.maxTokens, `a step of ${numTokens} tokens, ${this.maxTokens} fit`);
    invariant(outputToken.length <= this.maxOutputs, `${outputToken.length} outputs, ${this.maxOutputs} fit`);
    const staged = this.#staged;
    this.#numTokens = numTokens;
    this.#numOutputs = outputToken.length;
    staged.tokenIds.set(plan.tokenIds);
    staged.positions.set(plan.positions);
    staged.outputTokens.set(outputToken);
    for (let row = 0; row < plan.numRows; row++) {
      const output = previousOutput[row]!;
      if (output >= 0) staged.tokenIds[rowStart[row]!] = -1 - output;
    }
  }

  /** What was staged is what the next step reads. No step may be running. */
  publish(): void {
    const staged = this.#staged;
    const { tokenIds, positions, outputTokens } = this.#native;
    this.#counts[0] = BigInt(this.#numTokens);
    this.#counts[1] = BigInt(this.#numOutputs);
    for (let i = 0; i < this.#numTokens; i++) {
      tokenIds[i] = staged.tokenIds[i]!;
      positions[i] = staged.positions[i]!;
    }
    for (let i = 0; i < this.#numOutputs; i++) outputTokens[i] = staged.outputTokens[i]!;
  }

  free(): void {
    this.#memory.free();
  }
}
