// Owns the part of planning that chat and text completions share: seeds, lengths, sampling, stops.
import { XllmError } from '../../../common/errors.ts';
import { choiceSeed } from '../../../common/seed.ts';
import type { EngineModel } from '../../engine-client.ts';
import type { HttpContext } from '../context.ts';
import { limits } from '../limits.ts';
import type { ServedModel } from '../models/served-models.ts';
import { type SamplingFields, stopsOf, toSampling } from '../request/sampling-fields.ts';
import type { GenerationPlan, PromptPlan } from './plan.ts';

export interface PlanInput {
  readonly fields: SamplingFields;
  readonly model: ServedModel;
  readonly prompts: readonly PromptPlan[];
  readonly wantsLogprobs: boolean;
  /** Alternatives per token. */
  readonly numTopLogprobs: number;
  readonly echoes: boolean;
  /** Of header x-session-id. */
  readonly sessionHeader: string | readonly string[] | undefined;
}

/** Throws XllmError for what the engine must never see. */
export function buildPlan(context: HttpContext, input: PlanInput): GenerationPlan {
  const { fields, model, prompts, wantsLogprobs, numTopLogprobs, echoes, sessionHeader } = input;
  const n = fields.n ?? 1;
  const numChoices = n * prompts.length;
  if (numChoices > limits.choices) {
    throw new XllmError(
      'invalid_request',
      `n times the number of prompts is ${numChoices}; at most ${limits.choices}.`,
      {
        param: 'n',
      },
    );
  }
  const stops = stopsOf(fields);
  if (stops.length > 0 && !model.text.hasTokenizer) {
    throw new XllmError('tokenizer_missing', 'stop strings need a tokenizer; use stop_token_ids.', { param: 'stop' });
  }
  const numLogprobs = wantsLogprobs ? numTopLogprobs : -1;
  const maxTokens = Math.min(...prompts.map((prompt) => Math.max(1, prompt.maxTokens)));
  return {
    model: model.engine,
    prompts,
    n,
    seeds: Array.from({ length: numChoices }, (_, index) => seedOf(fields.seed, index % n, context.randomSeed)),
    sampling: toSampling(fields, {
      defaults: model.defaults,
      vocabSize: model.engine.vocabSize,
      maxTokens,
      numLogprobs,
      numPromptLogprobs: echoes ? numLogprobs : -1,
    }),
    stops,
    stopTokenIds: fields.stop_token_ids ?? [],
    includeStop: fields.include_stop_str_in_output ?? false,
    skipSpecialTokens: fields.skip_special_tokens ?? true,
    wantsLogprobs,
    priority: fields.priority ?? 0,
    offline: fields.offline ?? false,
    cacheSalt: fields.cache_salt ?? '',
    sessionKey:
      fields.session_id ?? (typeof sessionHeader === 'string' ? sessionHeader.slice(0, limits.cacheSaltChars) : ''),
    timeoutMs: context.config.requestTimeoutMs,
    ttftSloMs: fields.ttft_slo_ms ?? 0,
    tpotSloMs: fields.tpot_slo_ms ?? 0,
  };
}

function seedOf(seed: number | null | undefined, choice: number, randomSeed: () => bigint): bigint {
  return seed === null || seed === undefined ? randomSeed() : choiceSeed(BigInt.asUintN(64, BigInt(seed)), choice);
}

export interface LengthWish {
  readonly wanted: number | null | undefined;
  /** Where nothing was said: as many as fit, up to this. */
  readonly otherwise: number;
  readonly promptField: 'prompt' | 'messages';
}

/** Tokens that may be generated. Throws XllmError `context_length_exceeded` for what can never fit. */
export function fitMaxTokens({ maxModelLen }: EngineModel, numPrompt: number, wish: LengthWish): number {
  const { wanted, otherwise, promptField } = wish;
  if (numPrompt === 0) throw new XllmError('invalid_request', 'The prompt has no tokens.', { param: promptField });
  const room = maxModelLen - numPrompt;
  const requested = wanted ?? Math.min(otherwise, Math.max(1, room));
  if (requested > room) {
    throw new XllmError(
      'context_length_exceeded',
      `This model's context holds ${maxModelLen} tokens, but ${numPrompt + requested} were requested ` +
        `(${numPrompt} in the prompt, ${requested} to generate).`,
      { param: promptField },
    );
  }
  return requested;
}
