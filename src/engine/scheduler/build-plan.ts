// Owns the translation of a draft into a step plan: flat arrays, nothing shared with live state.
import { invariant } from '../../common/errors.ts';
import { isSampled, numScored, type StepDraft } from './draft.ts';
import { outputKind, type StepPlan } from './plan.ts';
import type { SampleRow } from './sampling-params.ts';
import type { Sequence } from './sequence.ts';
import type { SchedulerState } from './state.ts';

/** Also notes in each sequence what is now in flight. */
export function buildPlan(state: SchedulerState, draft: StepDraft): StepPlan {
  const { sequences, starts, stepId } = draft;
  const { maxModelLen } = state.limits;
  const numRows = sequences.length;
  const rowStart = new Int32Array(numRows + 1);
  const ends = new Int32Array(numRows);
  let numOutputs = 0;
  for (let row = 0; row < numRows; row++) {
    const sequence = sequences[row]!;
    const start = starts[row]!;
    const end = sequence.numPlanned;
    ends[row] = end;
    rowStart[row + 1] = rowStart[row]! + end - start;
    numOutputs += numScored(sequence, start, end) + (isSampled(sequence, maxModelLen) ? 1 : 0);
  }

  const numTokens = rowStart[numRows]!;
  const plan = {
    stepId,
    numTokens,
    numRows,
    tokenIds: new Int32Array(numTokens),
    positions: new Int32Array(numTokens),
    rowStart,
    sequenceIds: sequences.map(({ spec }) => spec.id),
    previousOutput: new Int32Array(numRows).fill(-1),
    adapterSlot: new Int32Array(numRows),
    outputToken: new Int32Array(numOutputs),
    outputRow: new Int32Array(numOutputs),
    outputKinds: new Uint8Array(numOutputs),
    targetIds: new Int32Array(numOutputs).fill(-1),
    sampling: [] as SampleRow[],
    groups: state.kv.buildTables(sequences.map(heldKv), ends),
  };

  for (let row = 0; row < numRows; row++) {
    const sequence = sequences[row]!;
    const start = starts[row]!;
    const end = ends[row]!;
    const firstToken = rowStart[row]!;
    const numKnown = Math.min(end, sequence.numTokens);
    if (numKnown > start) plan.tokenIds.set(sequence.tokens.subarray(start, numKnown), firstToken);
    if (numKnown < end) {
      // Sampled by the step in flight, and known only there.
      plan.tokenIds[firstToken + numKnown - start] = -1;
      plan.previousOutput[row] = sequence.outputIndex;
    }
    for (let i = 0; i < end - start; i++) plan.positions[firstToken + i] = start + i;

    const numScores = numScored(sequence, start, end);
    const firstScored = Math.min(end, sequence.numPrompt - 1) - numScores;
    for (let position = firstScored; position < firstScored + numScores; position++) {
      const output = plan.sampling.length;
      plan.outputToken[output] = firstToken + position - start;
      plan.outputRow[output] = row;
      plan.outputKinds[output] = outputKind.promptLogprobs;
      plan.targetIds[output] = sequence.tokens[position + 1]!;
      plan.sampling.push(scoreRow(sequence, position + 1));
    }
    sequence.numPromptScored = Math.max(sequence.numPromptScored, firstScored + numScores);

    if (isSampled(sequence, maxModelLen)) {
      const output = plan.sampling.length;
      plan.outputToken[output] = firstToken + end - start - 1;
      plan.outputRow[output] = row;
      plan.outputKinds[output] = outputKind.sample;
      plan.sampling.push(sampleRow(state, sequence, end));
      sequence.outputIndex = output;
      sequence.numPending++;
    }
    sequence.numInFlight++;
  }
  return plan;
}

function heldKv(sequence: Sequence): NonNullable<Sequence['kv']> {
  invariant(sequence.kv !== null, `sequence ${sequence.spec.id} has a row but no KV`);
  return sequence.kv;
}

function sampleRow(state: SchedulerState, sequence: Sequence, position: number): SampleRow {
  const { temperature, topK, topP, minP, numLogprobs } = sequence.params;
  const edits = state.edits.editsFor(sequence, position);
  return { temperature, topK, topP, minP, seed: sequence.spec.seed, position, edits, numLogprobs };
}

/** Only the raw distribution counts for prompt positions. */
function scoreRow(sequence: Sequence, position: number): SampleRow {
  const numLogprobs = sequence.params.numPromptLogprobs;
  return { temperature: 0, topK: 0, topP: 1, minP: 0, seed: sequence.spec.seed, position, edits: null, numLogprobs };
}
