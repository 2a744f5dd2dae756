// Owns what this replica knows of an instance's load beyond the last status: requests sent, begun and ended since. Pure.
import type { StatusReply } from '../../contract/generated/xllm_pb.js';
import type { InstanceLoad, InstanceView } from '../registry/cluster-view.ts';

/** One attempt at an instance. */
export interface JournalEntry {
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
  /** When the status was asked for: it may or may not show what happened since. */
  #askedMs = Number.NEGATIVE_INFINITY;

  sent(nowMs: number, numSeqs: number, numPromptTokens: number): JournalEntry {
    const entry = { sentMs: nowMs, numSeqs, numPromptTokens, firstMs: Number.NaN, endMs: Number.NaN };
    this.#entries.add(entry);
    return entry;
  }

  /** Of several attempts the one that was refused or given up is forgotten. */
  drop(entry: JournalEntry): void {
    this.#entries.delete(entry);
  }

  report(status: StatusReply, askedMs: number): void {
    this.#status = status;
    this.#askedMs = askedMs;
    for (const entry of this.#entries) if (entry.endMs < askedMs) this.#entries.delete(entry);
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
    for (const { sentMs, numSeqs, numPromptTokens, firstMs, endMs } of this.#entries) {
      const isReported = sentMs < this.#askedMs;
      const hasBegun = !Number.isNaN(firstMs);
      const hasEnded = !Number.isNaN(endMs);
      if (!isReported) {
        if (!hasEnded) unreported.numRequests += numSeqs;
        if (!hasBegun && !hasEnded) unreported.numPromptTokens += numPromptTokens;
        continue;
      }
      if ((hasBegun && firstMs >= this.#askedMs) || (hasEnded && !hasBegun)) load.numQueuedTokens -= numPromptTokens;
      if (!hasEnded) continue;
      load.numRunning -= numSeqs;
      load.numContextTokens -= numSeqs * numPromptTokens;
    }
    for (const key of ['numRunning', 'numQueuedTokens', 'numContextTokens'] as const)
      load[key] = Math.max(0, load[key]);
    return { load, unreported };
  }
}
