// Owns what a generation is asked to do, after validation: the one form that chat and text completions become.
import type { Sampling } from '../../../contract/generated/xllm_pb.js';
import type { EngineModel } from '../../engine-client.ts';

export interface PromptPlan {
  readonly ids: Int32Array;
  /** 0: only the prompt is wanted (echo). */
  readonly maxTokens: number;
  /** null: not echoed. */
  readonly echo: { readonly text: string; readonly textOffsets: readonly number[] } | null;
}

export interface GenerationPlan {
  readonly model: EngineModel;
  readonly prompts: readonly PromptPlan[];
  readonly n: number;
  /** One per choice of each prompt: prompt * n + choice. */
  readonly seeds: readonly bigint[];
  readonly sampling: Sampling;
  readonly stops: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly includeStop: boolean;
  readonly skipSpecialTokens: boolean;
  readonly wantsLogprobs: boolean;
  readonly priority: number;
  readonly offline: boolean;
  readonly cacheSalt: string;
  /** '': none. */
  readonly sessionKey: string;
  /** 0: none. */
  readonly timeoutMs: number;
  /** 0: none. */
  readonly ttftSloMs: number;
  readonly tpotSloMs: number;
}
