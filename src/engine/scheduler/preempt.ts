// Owns who gives way when pages or rows are short: from the back of the order, recomputed later.
import type { StepDraft } from './draft.ts';
import type { Sequence } from './sequence.ts';
import { ending, finish, preempt, type SchedulerState } from './state.ts';

/**
 * Repeats `attempt` until it succeeds, preempting sequences behind `needy` one by one. false: it must wait for steps
 * in flight or for those before it (the draft is then short of pages), or, alone and still short, it has been ended.
 */
export function makeRoom(state: SchedulerState, draft: StepDraft, needy: Sequence, attempt: () => boolean): boolean {
  while (!attempt()) {
    // Draining pages come back at the next commit, and may be enough: nobody else gives way before.
    const victim = state.numDraining > 0 ? undefined : pickVictim(state, draft, needy);
    if (victim) {
      preempt(state, victim);
    } else if (state.numDraining === 0 && state.running.items.every((sequence) => sequence === needy)) {
      endForWantOfMemory(state, needy);
      return false;
    } else {
      draft.isShortOfPages = true;
      return false;
    }
  }
  return true;
}

/** Preempts the last offline sequence, so that an online one can have its row. */
export function makeSeat(state: SchedulerState, draft: StepDraft): boolean {
  const victim = state.running.items.findLast(({ spec, isPaused }) => spec.offline && !isPaused);
  if (!victim || draft.has(victim)) return false;
  preempt(state, victim);
  return true;
}

/** Paused sequences first, whatever their place: nobody waits for them. A waiting sequence displaces only offline ones. */
function pickVictim(state: SchedulerState, draft: StepDraft, needy: Sequence): Sequence | undefined {
  const { running } = state;
  const isCandidate = (sequence: Sequence): boolean => sequence !== needy && !draft.has(sequence);
  const paused = running.items.findLast((sequence) => sequence.isPaused && isCandidate(sequence));
  if (paused) return paused;
  const last = running.items.findLast(isCandidate);
  if (!last) return undefined;
  if (needy.state === 'waiting') return last.spec.offline && !needy.spec.offline ? last : undefined;
  return running.indexOf(last) > running.indexOf(needy) ? last : undefined;
}

/** Admission saw to it that every sequence fits alone; the pool has shrunk since. */
function endForWantOfMemory(state: SchedulerState, sequence: Sequence): void {
  finish(state, sequence);
  const message = `the system has no memory for the KV cache of ${sequence.numTokens} tokens; shorten the prompt`;
  state.ended.push(ending(sequence, 'error', { refused: 'out_of_memory', message }));
}
