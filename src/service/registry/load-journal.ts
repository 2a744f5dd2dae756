// Owns what this replica knows of an instance's load beyond the last status: requests sent, begun and ended since. Pure.
import type { StatusReply } from '../../contract/generated/xllm_pb.js';
import type { InstanceLoad, InstanceView } from './cluster-view.ts';

/** One attempt at an instance. */
export interface JournalEntry {
  /** How many were sent before it; NaN: it was not sent here but comes from another instance. */
  readonly ordinal: number;
  readonly sentMs: number;
  readonly numSeqs: number;
  readonly numPromptTokens: number;
  /** First token; NaN: not yet. */
  firstMs: number;
  endMs: number;
}

export class LoadJournal {
  readonly #entries = new Set<JournalEntry>();
  #status: StatusReply | null = null;
  /** When the status came: it may or may not show what happened since. */
  #reportedMs = Number.NEGATIVE_INFINITY;
  #numSent = 0;
  /** Of what was sent, how many the status knows of. */
  #numReported = 0;

  sent(nowMs: number, numSeqs: number, numPromptTokens: number): JournalEntry {
    const entry = {
      ordinal: this.#numSent++,
      sentMs: nowMs,
      numSeqs,
      numPromptTokens,
      firstMs: Number.NaN,
      endMs: Number.NaN,
    };
    this.#entries.add(entry);
    return entry;
  }

  /** Sequences that another instance will hand over to this one: they count as sent until they begin. */
  expected(nowMs: number, numSeqs: number): JournalEntry {
    const entry = {
      ordinal: Number.NaN,
      sentMs: nowMs,
      numSeqs,
      numPromptTokens: 0,
      firstMs: Number.NaN,
      endMs: Number.NaN,
    };
    this.#entries.add(entry);
    return entry;
  }

  /** Of several attempts the one that was refused or given up is forgotten. */
  drop(entry: JournalEntry): void {
    this.#entries.delete(entry);
  }

  /** A status that knows of the first `numSubmits` attempts sent here, and came at `nowMs`. */
  report(status: StatusReply, numSubmits: number, nowMs: number): void {
    this.#status = status;
    this.#reportedMs = nowMs;
    this.#numReported = numSubmits;
    for (const entry of this.#entries) if (entry.endMs < nowMs) this.#entries.delete(entry);
  }

  get status(): StatusReply | null {
    return this.#status;
  }

  get numInFlight(): number {
    let count = 0;
    for (const { endMs } of this.#entries) if (Number.isNaN(endMs)) count++;
    return count;
  }

  view(): { readonly load: InstanceLoad; readonly unreported: InstanceView['unreported'] } {
    const status = this.#status;
    const load = {
      numRunning: status?.numRunning ?? 0,
      numWaiting: status?.numWaiting ?? 0,
      numQueuedTokens: Number(status?.numQueuedTokens ?? 0),
      numContextTokens: Number(status?.numContextTokens ?? 0),
      numKvBlocksUsed: status?.numKvBlocksUsed ?? 0,
    };
    const unreported = { numRequests: 0, numPromptTokens: 0 };
    for (const { ordinal, numSeqs, numPromptTokens, firstMs, endMs } of this.#entries) {
      // What comes from elsewhere is in the status that follows its first token.
      const isReported = Number.isNaN(ordinal) ? firstMs < this.#reportedMs : ordinal < this.#numReported;
      const hasBegun = !Number.isNaN(firstMs);
      const hasEnded = !Number.isNaN(endMs);
      if (!isReported) {
        if (!hasEnded) unreported.numRequests += numSeqs;
        if (!hasBegun && !hasEnded) unreported.numPromptTokens += numPromptTokens;
        continue;
      }
      if ((hasBegun && firstMs >= this.#reportedMs) || (hasEnded && !hasBegun)) load.numQueuedTokens -= numPromptTokens;
      if (!hasEnded) continue;
      load.numRunning -= numSeqs;
      load.numContextTokens -= numSeqs * numPromptTokens;
    }
    for (const key of ['numRunning', 'numQueuedTokens', 'numContextTokens'] as const)
      load[key] = Math.max(0, load[key]);
    return { load, unreported };
  }
}
