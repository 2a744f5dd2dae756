// Owns the door: what can never fit and what would wait too long is refused at once.
import type { Refusal } from '../../common/errors.ts';
import type { SequenceSpec } from './spec.ts';
import type { SchedulerState } from './state.ts';

/** Time over which the admission rate is averaged. */
const averagingMs = 10_000;
/** Shortest backlog whose rate is believed. */
const minObservedMs = 1_000;

/** Rate at which a backlog moves: admissions per time during which somebody waited. */
export class WaitPredictor {
  #numAdmitted = 0;
  #backlogMs = 0;
  #lastMs = Number.NaN;

  /** To be called with every plan; `hasBacklog`: whether anybody waited since the last call. */
  observe(nowMs: number, numAdmitted: number, hasBacklog: boolean): void {
    const elapsedMs = Number.isNaN(this.#lastMs) ? 0 : nowMs - this.#lastMs;
    this.#lastMs = nowMs;
    if (!hasBacklog) return;
    const keep = Math.exp(-elapsedMs / averagingMs);
    this.#numAdmitted = this.#numAdmitted * keep + numAdmitted;
    this.#backlogMs = this.#backlogMs * keep + elapsedMs;
  }

  /** Expected wait behind `numWaiting` others; 0 while there is nothing to judge by. */
  predictMs(numWaiting: number): number {
    if (this.#backlogMs < minObservedMs) return 0;
    // Nobody admitted for that long: at least as long again.
    return (numWaiting * this.#backlogMs) / Math.max(1, this.#numAdmitted);
  }
}

/** Why the sequence cannot be taken; null: it can. */
export function refusalOf(
  state: SchedulerState,
  predictor: WaitPredictor,
  spec: SequenceSpec,
  nowMs: number,
): Refusal | null {
  const { limits, kv, waiting } = state;
  const numPrompt = spec.promptIds.length;
  if (numPrompt === 0) return { refused: 'invalid_request', message: 'the prompt has no tokens' };
  const numTotal = numPrompt + spec.params.maxTokens;
  if (numTotal > limits.maxModelLen) {
    const message = `the prompt's ${numPrompt} tokens and max_tokens ${spec.params.maxTokens} make ${numTotal}; the model takes ${limits.maxModelLen}`;
    return { refused: 'context_length_exceeded', message };
  }
  if (!kv.fitsAlone(numTotal)) {
    const message = `${numTotal} tokens do not fit into the KV cache; shorten the prompt or lower max_tokens`;
    return { refused: 'context_length_exceeded', message };
  }
  const waitMs = predictor.predictMs(waiting.length);
  if (waiting.length >= limits.maxQueueLen) {
    return overloaded(`${waiting.length} sequences wait already`, waitMs);
  }
  const patienceMs = Math.min(limits.maxQueueMs, spec.deadlineMs - nowMs);
  if (waitMs > 0 && waitMs > patienceMs) {
    return overloaded(`it would wait for about ${Math.ceil(waitMs / 1000)} s`, waitMs - patienceMs);
  }
  return null;
}

function overloaded(why: string, retryAfterMs: number): Refusal {
  const retryAfterS = Math.max(1, Math.ceil(retryAfterMs / 1000));
  return { refused: 'overloaded', message: `${why}; try again in ${retryAfterS} s`, retryAfterS };
}
