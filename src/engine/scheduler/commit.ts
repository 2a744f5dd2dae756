// Owns what a completed step means for its sequences: new tokens, blocks to publish, ends, pages to give back.
import { invariant } from '../../common/errors.ts';
import { outputKind, type StepOutput, type StepPlan } from './plan.ts';
import { appendToken, canSample, type Sequence } from './sequence.ts';
import type { FinishReason, SequenceUpdate, TokenLogprobs } from './spec.ts';
import { drain, finish, type SchedulerState } from './state.ts';

/** A plan whose output is awaited, and the sequences of its rows. */
export interface InFlightStep {
  readonly plan: StepPlan;
  readonly sequences: readonly Sequence[];
}

export function commitStep(
  state: SchedulerState,
  step: InFlightStep,
  output: StepOutput,
  nowMs: number,
): SequenceUpdate[] {
  const { plan, sequences } = step;
  const updates: SequenceUpdate[] = [];
  let outputEnd = 0;
  for (let row = 0; row < plan.numRows; row++) {
    const sequence = sequences[row]!;
    const outputStart = outputEnd;
    while (plan.outputRow[outputEnd] === row) outputEnd++;
    sequence.numInFlight--;
    // What a finishing sequence has computed too much is dropped.
    if (sequence.state !== 'finishing') {
      commitPositions(state, sequence, plan.positions[plan.rowStart[row + 1]! - 1]! + 1);
      const update = commitOutputs(state, sequence, plan, output, outputStart, outputEnd, nowMs);
      if (update) updates.push(update);
    }
    const isDraining = sequence.state === 'preempting' || sequence.state === 'finishing';
    if (isDraining && sequence.numInFlight === 0) drain(state, sequence);
  }
  return updates;
}

/** Keys and values up to `end` are written. */
function commitPositions(state: SchedulerState, sequence: Sequence, end: number): void {
  const { kv, hasher, counters } = state;
  invariant(sequence.kv !== null, `sequence ${sequence.spec.id} has written KV but holds none`);
  counters.numPromptTokensComputed += Math.max(0, Math.min(end, sequence.numPrompt) - sequence.numComputed);
  sequence.numComputed = end;
  const numBlocks = Math.floor(end / kv.blockTokens);
  if (state.usesPrefixCache && numBlocks > sequence.kv.numPublished) {
    hasher.extend(sequence.digests, sequence.root, sequence.tokens, end);
    kv.publish(sequence.kv, sequence.digests, numBlocks);
  }
  kv.releaseBefore(sequence.kv, end);
}

function commitOutputs(
  state: SchedulerState,
  sequence: Sequence,
  plan: StepPlan,
  output: StepOutput,
  outputStart: number,
  outputEnd: number,
  nowMs: number,
): SequenceUpdate | null {
  const { params, timing, spec } = sequence;
  const promptLogprobs: TokenLogprobs[] = [];
  const logprobs: TokenLogprobs[] = [];
  const firstNew = sequence.numTokens;
  let finishReason: FinishReason | null = null;
  let stopTokenId = -1;
  for (let i = outputStart; i < outputEnd; i++) {
    if (plan.outputKinds[i] === outputKind.promptLogprobs) {
      promptLogprobs.push(logprobsOf(output, i, plan.targetIds[i]!));
      continue;
    }
    const token = output.tokenIds[i]!;
    invariant(token >= 0, `sequence ${spec.id} was to get a token and did not`);
    appendToken(sequence, token);
    sequence.numPending--;
    if (params.numLogprobs >= 0) logprobs.push(logprobsOf(output, i, token));
    if (Number.isNaN(timing.prefillMs)) timing.prefillMs = nowMs - sequence.arrivalMs - timing.queueMs;
    if (isStop(state, sequence, token)) {
      finishReason = 'stop';
      stopTokenId = token;
    }
  }
  const numNew = sequence.numTokens - firstNew;
  state.counters.numGenerationTokens += numNew;
  const isComputed = sequence.numComputed >= sequence.numPrompt && sequence.numPending === 0;
  if (!finishReason && isComputed && !canSample(sequence, state.limits.maxModelLen)) finishReason = 'length';
  if (finishReason) finish(state, sequence);
  if (!finishReason && numNew === 0 && promptLogprobs.length === 0) return null;
  const tokenIds = sequence.tokens.slice(firstNew, sequence.numTokens);
  const numBefore = firstNew - sequence.numPrompt;
  return {
    id: spec.id,
    tokenIds,
    numBefore,
    logprobs,
    promptLogprobs,
    finish: finishReason,
    stopTokenId,
    error: null,
    timing,
  };
}

function isStop(state: SchedulerState, sequence: Sequence, token: number): boolean {
  const { params, numTokens, numPrompt } = sequence;
  if (numTokens - numPrompt < params.minTokens) return false;
  return (!params.ignoreEos && state.modelStopIds.has(token)) || params.stopTokenIds.includes(token);
}

function logprobsOf(output: StepOutput, index: number, tokenId: number): TokenLogprobs {
  return { tokenId, logprob: output.logprobs[index]!, top: output.topLogprobs[index] ?? null };
}
