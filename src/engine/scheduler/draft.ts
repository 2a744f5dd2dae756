// Owns a step while it is put together: its rows, and what is left of its budget.
import { canSample, numExpected, type Sequence, wantsPromptScores } from './sequence.ts';
import type { SchedulerLimits } from './spec.ts';

/** Row r computes positions [starts[r], sequences[r].numPlanned). Rows are never taken back. */
export class StepDraft {
  readonly stepId: number;
  readonly sequences: Sequence[] = [];
  readonly starts: number[] = [];
  /** A sequence found no pages: none may go to those behind it. */
  isShortOfPages = false;
  #numTokensLeft: number;
  #numRowsLeft: number;
  #numOutputsLeft: number;

  constructor(stepId: number, limits: SchedulerLimits) {
    this.stepId = stepId;
    this.#numTokensLeft = limits.maxNumBatchedTokens;
    this.#numRowsLeft = limits.maxNumSeqs;
    this.#numOutputsLeft = limits.maxNumOutputs;
  }

  get numTokensLeft(): number {
    return this.#numTokensLeft;
  }

  get isFull(): boolean {
    return this.#numTokensLeft <= 0 || this.#numRowsLeft <= 0 || this.#numOutputsLeft <= 0;
  }

  has(sequence: Sequence): boolean {
    return sequence.lastStepId === this.stepId;
  }

  /** Where a chunk from `start` that wants to reach `end` can end; `start` itself when nothing is left. */
  clamp(sequence: Sequence, start: number, end: number): number {
    let limit = this.#numTokensLeft;
    // Every scored prompt position is an output, and one is kept for the sampled token.
    if (wantsPromptScores(sequence)) limit = Math.min(limit, this.#numOutputsLeft - 1);
    return Math.max(start, Math.min(end, start + limit));
  }

  /** Adds a row from the sequence's first unplanned position. */
  add(sequence: Sequence, end: number): void {
    this.sequences.push(sequence);
    this.starts.push(sequence.numPlanned);
    sequence.lastStepId = this.stepId;
    this.#numRowsLeft--;
    // For the sampled token, whether this row gets as far or not.
    this.#numOutputsLeft--;
    this.lengthen(sequence, end);
  }

  lengthen(sequence: Sequence, end: number): void {
    this.#numTokensLeft -= end - sequence.numPlanned;
    this.#numOutputsLeft -= numScored(sequence, sequence.numPlanned, end);
    sequence.numPlanned = end;
  }
}

/** Prompt positions in [start, end) whose log-probabilities are still to be delivered: the last ones before `end`. */
export function numScored(sequence: Sequence, start: number, end: number): number {
  if (sequence.params.numPromptLogprobs < 0) return 0;
  return Math.max(0, Math.min(end, sequence.numPrompt - 1) - Math.max(start, sequence.numPromptScored));
}

/** Whether the sequence's row reaches the last token that exists, so that the next is sampled. */
export function isSampled(sequence: Sequence, maxModelLen: number): boolean {
  return sequence.numPlanned === numExpected(sequence) && canSample(sequence, maxModelLen);
}
