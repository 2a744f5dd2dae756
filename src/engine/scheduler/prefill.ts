// Owns the rows that compute prompts, chunk by chunk: running ones first, then new ones from the waiting queue.
import { isReady, tryRow } from './decode.ts';
import type { StepDraft } from './draft.ts';
import { makeRoom, makeSeat } from './preempt.ts';
import { numExpected, numRemaining, type Sequence, wantsPromptScores } from './sequence.ts';
import { admit, type SchedulerState } from './state.ts';

/** Next chunks of prompts that are partly computed. */
export function draftRunningPrefills(state: SchedulerState, draft: StepDraft, isOffline: boolean): void {
  for (const sequence of state.running.items.slice()) {
    if (draft.isFull) return;
    if (sequence.spec.offline !== isOffline || numRemaining(sequence) <= 1 || draft.has(sequence)) continue;
    if (!isReady(state, sequence)) continue;
    const end = chunkEnd(state, draft, sequence, sequence.numPlanned);
    // A prompt's pages were taken at admission, but for those of sliding windows.
    if (end > sequence.numPlanned) tryRow(state, draft, sequence, end);
  }
}

/** Admits waiting sequences while rows, tokens and pages last. Who lacks pages blocks those behind: no starvation. */
export function draftNewPrefills(state: SchedulerState, draft: StepDraft, isOffline: boolean, nowMs: number): void {
  const { waiting, limits } = state;
  for (let index = 0; index < waiting.length && !draft.isFull && !draft.isShortOfPages; ) {
    const sequence = waiting.items[index]!;
    index++;
    // Online ones are in front.
    if (sequence.spec.offline && !isOffline) return;
    if (!sequence.spec.offline && isOffline) continue;
    if (sequence.isPaused || waitsForSibling(state, sequence)) continue;
    const numCached = cachedTokens(state, sequence);
    if (waitsForPrefix(state, sequence, numCached) || exceedsPartialLimits(state, draft, sequence, numCached)) continue;
    const end = chunkEnd(state, draft, sequence, numCached);
    if (end === numCached) continue;
    if (numActive(state) >= limits.maxNumSeqs && (isOffline || !makeSeat(state, draft))) return;
    if (makeRoom(state, draft, sequence, () => tryAdmit(state, sequence, numCached, end, nowMs))) {
      draft.add(sequence, end);
    }
    // It may have left the queue, and preempted ones may have entered it.
    index = waiting.indexOf(sequence);
  }
}

/** Gives what is left of the token budget to chunks that were cut short for the sake of others. */
export function lengthenChunks(state: SchedulerState, draft: StepDraft): void {
  for (const sequence of draft.sequences) {
    if (draft.numTokensLeft <= 0) return;
    const { kv, numPlanned } = sequence;
    const end = draft.clamp(sequence, numPlanned, numExpected(sequence));
    if (kv && end > numPlanned && state.kv.tryAppend(kv, end)) draft.lengthen(sequence, end);
  }
}

/** Running sequences that compete for rows. */
function numActive(state: SchedulerState): number {
  return state.running.items.reduce((count, { isPaused }) => (isPaused ? count : count + 1), 0);
}

function tryAdmit(state: SchedulerState, sequence: Sequence, numCached: number, end: number, nowMs: number): boolean {
  const { kv } = state;
  if (sequence.imported) {
    const { imported } = sequence;
    if (!kv.tryAppend(imported.kv, end)) return false;
    admit(state, sequence, imported.kv, numCached, nowMs);
    return true;
  }
  // Each running sequence may need a page before long: to take the last ones would only mean to preempt somebody.
  const held = kv.tryAllocate(sequence.digests, numCached / kv.blockTokens, sequence.numTokens, numActive(state));
  if (!held) return false;
  if (!kv.tryAppend(held, end)) {
    kv.free(held);
    return false;
  }
  admit(state, sequence, held, numCached, nowMs);
  return true;
}

/** Tokens found in the prefix cache, or brought along. */
function cachedTokens(state: SchedulerState, sequence: Sequence): number {
  if (sequence.imported) return sequence.imported.numTokens;
  if (!usesCache(state, sequence)) return 0;
  const { kv, hasher } = state;
  hasher.extend(sequence.digests, sequence.root, sequence.tokens, sequence.numTokens);
  return kv.match(sequence.digests, maxCachedBlocks(state, sequence)) * kv.blockTokens;
}

/** At least the last token is left to compute: its logits are wanted. */
function maxCachedBlocks(state: SchedulerState, sequence: Sequence): number {
  return Math.floor((sequence.numTokens - 1) / state.kv.blockTokens);
}

/** Log-probabilities of prompt positions exist only for computed ones. */
function usesCache(state: SchedulerState, sequence: Sequence): boolean {
  return state.usesPrefixCache && !wantsPromptScores(sequence);
}

/** Whether the first of its group is still computing the prompt that all of it share. */
function waitsForSibling(state: SchedulerState, sequence: Sequence): boolean {
  const leader = state.leaders.get(sequence.spec.group);
  if (!leader || leader === sequence || leader.isPaused || !usesCache(state, sequence)) return false;
  return leader.numComputed < leader.numPrompt;
}

/** Whether a running prefill is about to compute the next block that this one lacks: a step's delay saves it for all. */
function waitsForPrefix(state: SchedulerState, sequence: Sequence, numCached: number): boolean {
  const block = numCached / state.kv.blockTokens;
  if (sequence.imported || block >= maxCachedBlocks(state, sequence) || !usesCache(state, sequence)) return false;
  const digest = sequence.digests[block];
  const end = numCached + state.kv.blockTokens;
  return state.running.items.some(
    (other) => !other.isPaused && other.numComputed < end && other.digests[block] === digest,
  );
}

function exceedsPartialLimits(state: SchedulerState, draft: StepDraft, sequence: Sequence, numCached: number): boolean {
  const remaining = sequence.numTokens - numCached;
  if (remaining <= draft.numTokensLeft && !isLong(state, remaining)) return false;
  const partial = state.running.items.filter((other) => !other.isPaused && numRemaining(other) > 1);
  if (partial.length >= state.limits.maxNumPartialPrefills) return true;
  if (!isLong(state, remaining)) return false;
  // By what was left before this step: a long prompt's last chunk is not to be shared with the next long one.
  const numLong = partial.filter((other) => isLong(state, numExpected(other) - other.numComputed)).length;
  return numLong >= state.limits.maxLongPartialPrefills;
}

function isLong(state: SchedulerState, numTokens: number): boolean {
  return numTokens > state.limits.longPrefillThreshold;
}

/** End of the next chunk from `start`; equal to it when nothing can be computed now. */
function chunkEnd(state: SchedulerState, draft: StepDraft, sequence: Sequence, start: number): number {
  const end = numExpected(sequence);
  const share = isLong(state, end - start) ? start + state.limits.longPrefillThreshold : end;
  return draft.clamp(sequence, start, share);
}
