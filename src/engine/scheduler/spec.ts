// Owns what enters and leaves the scheduler: sequence specs in, updates out, and the limits between them.
import type { Refusal } from '../../common/errors.ts';
import type { TopLogprobs } from './plan.ts';
import type { LogitEdits, SamplingParams } from './sampling-params.ts';

/** One generated continuation to be scheduled. Times are milliseconds of the caller's clock. */
export interface SequenceSpec {
  /** Unique among the sequences that the scheduler holds. */
  readonly id: number;
  /** At least one token. */
  readonly promptIds: Int32Array;
  /**
   * What an earlier attempt generated after the prompt: computed like a prompt, counted as generated, not told again.
   * Fewer than `maxTokens`, and none of them ended the sequence.
   */
  readonly generatedIds: Int32Array;
  readonly params: SamplingParams;
  readonly seed: bigint;
  /** Smaller runs first under the `priority` policy. */
  readonly priority: number;
  /** Best effort: runs behind, and gives way to, every online sequence. */
  readonly offline: boolean;
  /** Separates tenants in the prefix cache; '': shared. */
  readonly cacheSalt: string;
  /** The sequence ends with `deadline_exceeded` after this time; Infinity: none. */
  readonly deadlineMs: number;
  /** Sequences of equal group have equal prompts: the first computes it, its siblings wait and share. -1: none. */
  readonly group: number;
}

/** What most sequences are: online, with the shared cache, without a deadline or siblings, begun here. */
export const ordinarySequence = {
  generatedIds: new Int32Array(0),
  seed: 0n,
  priority: 0,
  offline: false,
  cacheSalt: '',
  deadlineMs: Number.POSITIVE_INFINITY,
  group: -1,
} as const satisfies Partial<SequenceSpec>;

/** `handed-off`: another instance goes on with it. */
export type FinishReason = 'stop' | 'length' | 'abort' | 'error' | 'handed-off';

/** Log-probabilities of one token. */
export interface TokenLogprobs {
  readonly tokenId: number;
  readonly logprob: number;
  readonly top: TopLogprobs | null;
}

/** What one commit adds to one sequence. */
export interface SequenceUpdate {
  readonly id: number;
  /** New tokens; a stop token is included. */
  readonly tokenIds: Int32Array;
  /** Generated tokens before these, earlier attempts' included. */
  readonly numBefore: number;
  /** One per new token where asked for; else empty. */
  readonly logprobs: readonly TokenLogprobs[];
  /** Prompt positions whose log-probabilities became known, in order, each once. The first prompt token has none. */
  readonly promptLogprobs: readonly TokenLogprobs[];
  /** null: the sequence goes on. Set in exactly one, the last, update of a sequence. */
  readonly finish: FinishReason | null;
  /** Last of `tokenIds`, where it ended the sequence; else -1. */
  readonly stopTokenId: number;
  /** With finish 'error'. */
  readonly error: Refusal | null;
  readonly timing: SequenceTiming;
}

/** Facts about a sequence so far; one object per sequence, live. */
export interface SequenceTiming {
  /** Prompt tokens found in the prefix cache at first admission; -1: not yet admitted. */
  readonly numCachedTokens: number;
  /** Arrival to first admission; NaN before. */
  readonly queueMs: number;
  /** First admission to first token; NaN before. */
  readonly prefillMs: number;
  readonly numPreemptions: number;
}

export interface SchedulerLimits {
  /** Rows per step. */
  readonly maxNumSeqs: number;
  /** Tokens per step; at least maxNumSeqs. */
  readonly maxNumBatchedTokens: number;
  /** Outputs (sampled tokens and prompt log-probabilities) per step; at least maxNumSeqs. */
  readonly maxNumOutputs: number;
  /** Prompt plus generated tokens of one sequence. */
  readonly maxModelLen: number;
  /** Waiting sequences beyond which new ones are refused. */
  readonly maxQueueLen: number;
  /** Predicted wait beyond which new sequences are refused; Infinity: never. */
  readonly maxQueueMs: number;
  /** Prompts that may be partly computed at one time. */
  readonly maxNumPartialPrefills: number;
  /** Of these, how many may be long. */
  readonly maxLongPartialPrefills: number;
  /** Remaining prompt tokens above which a prefill is long; also a long one's share of a contended step. */
  readonly longPrefillThreshold: number;
}

export type SchedulingPolicy = 'fcfs' | 'priority';

/** What a caller of the scheduler may see of a sequence while its sampling row is built. */
export interface SequenceView {
  readonly params: SamplingParams;
  /** Prompt and generated tokens; valid up to `numTokens`. */
  readonly tokens: Int32Array;
  /** Known tokens. */
  readonly numTokens: number;
  readonly numPrompt: number;
}

/**
 * Edits to the logits from which the token at `position` is sampled. `position - numPrompt` tokens have been generated
 * before it. The last of them may still be unknown (`numTokens === position - 1`), but never when `needsTokens` holds.
 */
export interface EditsBuilder {
  /** Whether the edits depend on which tokens were generated (penalties), not only on how many. */
  needsTokens(params: SamplingParams): boolean;
  editsFor(sequence: SequenceView, position: number): LogitEdits | null;
}
