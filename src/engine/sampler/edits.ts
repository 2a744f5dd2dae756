// Owns the edits of each sequence's logits: logit bias, penalties and forbidden stop tokens, merged by token, kept up token by token.
//
// Semantics are vLLM's: the repetition penalty counts prompt and generated tokens, presence and frequency generated ones only;
// before `minTokens` generated tokens every stop id is forbidden, the model's own even with ignoreEos.
import type { LogitEdits, SamplingParams } from '../scheduler/sampling-params.ts';
import type { EditsBuilder, SequenceView } from '../scheduler/spec.ts';

/** Whether the edits depend on which tokens there are. */
function hasPenalties({ repetitionPenalty, presencePenalty, frequencyPenalty }: SamplingParams): boolean {
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
}

/** `modelStopIds`: the model's end-of-sequence ids. State lives as long as the sequence objects given to `editsFor`. */
export function createEditsBuilder(modelStopIds: readonly number[]): EditsBuilder {
  const states = new WeakMap<SequenceView, SequenceEdits>();
  return {
    needsTokens: hasPenalties,
    editsFor(sequence, position) {
      const { params, numPrompt, numTokens } = sequence;
      const forbidsStop = position - numPrompt < params.minTokens;
      if (!hasPenalties(params) && !forbidsStop && params.logitBias.length === 0) return null;
      let state = states.get(sequence);
      if (!state || state.numSeen > numTokens) {
        state = new SequenceEdits(sequence, modelStopIds);
        states.set(sequence, state);
      }
      state.seeGenerated(sequence);
      return state.snapshot(forbidsStop);
    },
  };
}

/** One sequence's edits, ascending by token. What a step costs is a copy of them, and the new tokens. */
class SequenceEdits {
  readonly #params: SamplingParams;
  readonly #stopIds: readonly number[];
  #size = 0;
  #ids: Int32Array;
  /** How often each token was generated. */
  #counts: Int32Array;
  #bias: Float32Array;
  #scalePositive: Float32Array;
  #scaleNegative: Float32Array;
  #add: Float32Array;
  #numSeen: number;
  #last: { readonly forbidsStop: boolean; readonly edits: LogitEdits } | null = null;

  constructor({ params, tokens, numPrompt }: SequenceView, modelStopIds: readonly number[]) {
    this.#params = params;
    this.#numSeen = numPrompt;
    this.#stopIds = params.minTokens > 0 ? [...modelStopIds, ...params.stopTokenIds] : [];
    const repeated = params.repetitionPenalty === 1 ? [] : tokens.subarray(0, numPrompt);
    const ids = new Set([...params.logitBias.map(({ tokenId }) => tokenId), ...this.#stopIds, ...repeated]);
    const capacity = ids.size + 64;
    this.#ids = new Int32Array(capacity);
    this.#counts = new Int32Array(capacity);
    this.#bias = new Float32Array(capacity);
    this.#scalePositive = new Float32Array(capacity).fill(1);
    this.#scaleNegative = new Float32Array(capacity).fill(1);
    this.#add = new Float32Array(capacity);
    this.#ids.set(Int32Array.from(ids).sort());
    this.#size = ids.size;
    for (const { tokenId, bias } of params.logitBias) this.#bias[this.#find(tokenId)]! += bias;
    this.#add.set(this.#bias);
    for (const id of repeated) this.#penaliseRepetition(this.#find(id));
  }

  /** Tokens taken into account, the prompt's included. */
  get numSeen(): number {
    return this.#numSeen;
  }

  /** Takes the generated tokens into account that are new. */
  seeGenerated({ tokens, numTokens }: SequenceView): void {
    if (!hasPenalties(this.#params)) return;
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = this.#params;
    for (let i = this.#numSeen; i < numTokens; i++) {
      const at = this.#place(tokens[i]!);
      const count = ++this.#counts[at]!;
      if (count > 1 && frequencyPenalty === 0) continue;
      if (repetitionPenalty !== 1) this.#penaliseRepetition(at);
      this.#add[at] = this.#bias[at]! - presencePenalty - frequencyPenalty * count;
      this.#last = null;
    }
    this.#numSeen = numTokens;
  }

  #penaliseRepetition(at: number): void {
    this.#scalePositive[at] = 1 / this.#params.repetitionPenalty;
    this.#scaleNegative[at] = this.#params.repetitionPenalty;
  }

  /** The edits as a value; the same one as long as nothing changes. */
  snapshot(forbidsStop: boolean): LogitEdits {
    if (this.#last?.forbidsStop === forbidsStop) return this.#last.edits;
    const edits = {
      tokenIds: this.#ids.slice(0, this.#size),
      scalePositive: this.#scalePositive.slice(0, this.#size),
      scaleNegative: this.#scaleNegative.slice(0, this.#size),
      add: this.#add.slice(0, this.#size),
    };
    if (forbidsStop) for (const id of this.#stopIds) edits.add[this.#find(id)] = -Infinity;
    this.#last = { forbidsStop, edits };
    return edits;
  }

  /** First place whose id is not below `id`. */
  #find(id: number): number {
    let low = 0;
    let high = this.#size;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ids[middle]! < id) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The id's place, made where there is none. */
  #place(id: number): number {
    const at = this.#find(id);
    if (at < this.#size && this.#ids[at] === id) return at;
    this.#ids = insert(this.#ids, this.#size, at, id);
    this.#counts = insert(this.#counts, this.#size, at, 0);
    this.#bias = insert(this.#bias, this.#size, at, 0);
    this.#scalePositive = insert(this.#scalePositive, this.#size, at, 1);
    this.#scaleNegative = insert(this.#scaleNegative, this.#size, at, 1);
    this.#add = insert(this.#add, this.#size, at, 0);
    this.#size++;
    return at;
  }
}

/** Inserts into the first `size` elements; moves them to a larger array when full. */
function insert<T extends Int32Array | Float32Array>(column: T, size: number, at: number, value: number): T {
  let target = column;
  if (size === column.length) {
    target = new (column.constructor as new (length: number) => T)(2 * size);
    target.set(column);
  }
  target.copyWithin(at + 1, at, size);
  target[at] = value;
  return target;
}
