// Owns the rows of sequences that need one token: they come first, because somebody is reading along.
import type { StepDraft } from './draft.ts';
import { makeRoom } from './preempt.ts';
import { canSample, numExpected, numRemaining, type Sequence } from './sequence.ts';
import type { SchedulerState } from './state.ts';

export function draftDecodes(state: SchedulerState, draft: StepDraft, isOffline: boolean): void {
  // A copy, because those at the back may be preempted meanwhile.
  for (const sequence of state.running.items.slice()) {
    if (draft.isFull) return;
    if (sequence.spec.offline !== isOffline || numRemaining(sequence) !== 1 || !isReady(state, sequence)) continue;
    tryRow(state, draft, sequence, sequence.numPlanned + 1);
  }
}

/** Whether a running sequence can have a row now. */
export function isReady(state: SchedulerState, sequence: Sequence): boolean {
  if (sequence.state !== 'running' || sequence.isPaused) return false;
  if (sequence.numPending > 0 && sequence.needsTokens) return false;
  if (numExpected(sequence) > sequence.holdFrom) return false;
  // What is in flight may already be the last token.
  return sequence.numPlanned < sequence.numPrompt || canSample(sequence, state.limits.maxModelLen);
}

/** Drafts a running sequence's row up to `end`, if pages can be had. */
export function tryRow(state: SchedulerState, draft: StepDraft, sequence: Sequence, end: number): void {
  const { kv } = sequence;
  if (kv && makeRoom(state, draft, sequence, () => state.kv.tryAppend(kv, end))) draft.add(sequence, end);
}
