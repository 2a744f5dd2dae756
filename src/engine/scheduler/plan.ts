// Owns the step plan and its result: the values that pass between scheduler and executor.
// Legend: T tokens in the step, R rows (sequences), O outputs (tokens that need the LM head), G cache groups.
import type { GroupTables } from '../kv/tables.ts';
import type { SampleRow } from './sampling-params.ts';

/** Tokens of a step, at most: kernels count pieces in 16 bits, and none has more than 8 to a token (jit/kernels/op.ts). */
export const MAX_STEP_TOKENS = 8192;

/** What an output token is computed for. */
export const outputKind = { sample: 1, promptLogprobs: 2, hidden: 3 } as const;

/** One forward pass: immutable, flat, without pointers, so that another process could execute it. */
export interface StepPlan {
  readonly stepId: number;
  readonly numTokens: number;
  readonly numRows: number;
  /** [T] token ids; -1: the token sampled for this row by the previous step (see `previousOutput`). */
  readonly tokenIds: Int32Array;
  /** [T] absolute positions. */
  readonly positions: Int32Array;
  /** [R+1] each row's first token; a row's tokens are consecutive positions. */
  readonly rowStart: Int32Array;
  /** [R] */
  readonly sequenceIds: readonly number[];
  /** [R] for a row that begins with a placeholder: index of its output in the previous step; else -1. */
  readonly previousOutput: Int32Array;
  /** [R] adapter (LoRA) slot; 0: none. */
  readonly adapterSlot: Int32Array;
  /** [O] index into the step's tokens. */
  readonly outputToken: Int32Array;
  /** [O] index into the rows. */
  readonly outputRow: Int32Array;
  /** [O] values of `outputKind`. */
  readonly outputKinds: Uint8Array;
  /** [O] for promptLogprobs: the prompt token that follows (its log-probability is wanted); else -1. */
  readonly targetIds: Int32Array;
  /** [O] */
  readonly sampling: readonly SampleRow[];
  /** [G] */
  readonly groups: readonly GroupTables[];
}

export interface TopLogprobs {
  /** Best first; ties by lowest id. */
  readonly ids: Int32Array;
  readonly logprobs: Float32Array;
  /** 1-based rank of the chosen (or target) token in the raw distribution. */
  readonly rank: number;
}

export type GraphMode = 'full' | 'partial' | 'eager';

export interface StepOutput {
  readonly stepId: number;
  /** [O] sampled token, or -1 for other output kinds. */
  readonly tokenIds: Int32Array;
  /** [O] raw log-probability of the sampled or target token; NaN where not asked for. */
  readonly logprobs: Float32Array;
  /** [O] null where not asked for. */
  readonly topLogprobs: readonly (TopLogprobs | null)[];
  /** [O] states [D] after the final norm, null for other output kinds; absent where no output is of kind hidden. */
  readonly hidden?: readonly (Float32Array | null)[];
  readonly graphMode: GraphMode;
  readonly computeMs: number;
}
