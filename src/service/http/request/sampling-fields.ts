// Owns the request fields that chat and text completions share, and their way into the contract's Sampling.
import { create } from '@bufbuild/protobuf';
import { z } from 'zod';
import { XllmError } from '../../../common/errors.ts';
import { bytesOfInt32 } from '../../../contract/codec.ts';
import { type Sampling, SamplingSchema } from '../../../contract/generated/xllm_pb.js';
import type { GenerationDefaults } from '../config.ts';
import { limits } from '../limits.ts';
import { toTokenIds } from './token-ids.ts';

const int32 = z
  .int()
  .min(-(2 ** 31))
  .max(2 ** 31 - 1);
const stop = z.string().min(1).max(limits.stopChars);

export const samplingFields = {
  model: z.string().max(1024).nullish().describe('Served model name; the first one when left out.'),
  n: z.int().min(1).max(limits.n).nullish().describe('How many choices to generate (default 1).'),
  temperature: z
    .number()
    .min(0)
    .max(100)
    .nullish()
    .describe("0: always the likeliest token. Default: the model's generation config, else 1."),
  top_p: z.number().min(0).max(1).nullish().describe('Keep the likeliest tokens that reach this probability.'),
  top_k: int32.min(-1).nullish().describe('Keep this many of the likeliest tokens; 0 or -1: all.'),
  min_p: z.number().min(0).max(1).nullish().describe("Keep tokens of at least this share of the likeliest one's."),
  repetition_penalty: z.number().gt(0).max(100).nullish().describe('Above 1 makes tokens seen before less likely.'),
  presence_penalty: z.number().min(-2).max(2).nullish().describe('Subtracted once from tokens generated before.'),
  frequency_penalty: z.number().min(-2).max(2).nullish().describe('Subtracted per occurrence of a generated token.'),
  logit_bias: z
    .record(z.string().regex(/^\d{1,9}$/, { error: 'must be a token id' }), z.number().min(-100).max(100))
    .nullish()
    .describe('Added to the logits of token ids.'),
  seed: z.int().nullish().describe('Makes sampled text repeatable; choice i draws from hash(seed, i).'),
  stop: z
    .union([stop, z.array(stop).max(limits.stops)], {
      error: `must be a string or up to ${limits.stops} strings of 1 to ${limits.stopChars} characters`,
    })
    .nullish()
    .describe('Strings that end a choice; they are not part of its text.'),
  stop_token_ids: z.array(int32.min(0)).max(limits.stopTokenIds).nullish().describe('Token ids that end a choice.'),
  include_stop_str_in_output: z.boolean().nullish().describe('Keep the stop string or token in the text.'),
  ignore_eos: z.boolean().nullish().describe("Go on after the model's own end tokens."),
  min_tokens: int32.min(0).nullish().describe('No end before this many tokens.'),
  skip_special_tokens: z.boolean().nullish().describe('Leave control tokens out of the text (default true).'),
  stream: z.boolean().nullish().describe('Send server-sent events as tokens come.'),
  stream_options: z
    .object({
      include_usage: z.boolean().nullish().describe('One more event with the usage of the whole request.'),
      continuous_usage_stats: z.boolean().nullish().describe('Usage so far in every event.'),
    })
    .nullish(),
  return_token_ids: z.boolean().nullish().describe('Token ids beside the text.'),
  return_tokens_as_token_ids: z.boolean().nullish().describe('Tokens in logprobs as "token_id:N".'),
  priority: int32.nullish().describe('Smaller runs first under --scheduling-policy priority.'),
  offline: z.boolean().nullish().describe('Best effort: runs when no latency-bound request needs the machine.'),
  cache_salt: z
    .string()
    .min(1)
    .max(limits.cacheSaltChars)
    .nullish()
    .describe('Cached prefixes are shared only between requests of equal salt.'),
  session_id: z
    .string()
    .max(limits.cacheSaltChars)
    .nullish()
    .describe('Requests of one session prefer one instance; the header x-session-id says the same.'),
  ttft_slo_ms: z
    .number()
    .gt(0)
    .max(1e9)
    .nullish()
    .describe('Objective for the first token; metrics count what met it.'),
  tpot_slo_ms: z.number().gt(0).max(1e9).nullish().describe('Objective per later token; metrics count what met it.'),
};

const samplingShape = z.object(samplingFields);
export type SamplingFields = z.output<typeof samplingShape>;

/** Below this a temperature is 0: dividing by it would overflow (vLLM draws the line here too). */
const MIN_TEMPERATURE = 1e-5;
/** Keeps exactly the likeliest token, which is what 0 asks for; on the wire 0 is taken. */
const MIN_TOP_P = 1e-6;

/** Throws XllmError `invalid_request` for ids outside the vocabulary and for more min_tokens than max_tokens. */
export function toSampling(
  fields: SamplingFields,
  context: {
    readonly defaults: GenerationDefaults;
    readonly vocabSize: number;
    readonly maxTokens: number;
    /** -1: none. */
    readonly numLogprobs: number;
    readonly numPromptLogprobs: number;
  },
): Sampling {
  const { defaults, vocabSize, maxTokens, numLogprobs, numPromptLogprobs } = context;
  const temperature = fields.temperature ?? defaults.temperature ?? 1;
  const minTokens = fields.min_tokens ?? 0;
  if (minTokens > maxTokens) {
    throw new XllmError('invalid_request', `min_tokens ${minTokens} is more than max_tokens ${maxTokens}.`, {
      param: 'min_tokens',
    });
  }
  return create(SamplingSchema, {
    temperature: temperature < MIN_TEMPERATURE ? 0 : temperature,
    topK: Math.max(0, fields.top_k ?? defaults.topK ?? 0),
    topP: Math.max(MIN_TOP_P, fields.top_p ?? defaults.topP ?? 1),
    minP: fields.min_p ?? defaults.minP ?? 0,
    repetitionPenalty: fields.repetition_penalty ?? defaults.repetitionPenalty ?? 1,
    presencePenalty: fields.presence_penalty ?? 0,
    frequencyPenalty: fields.frequency_penalty ?? 0,
    logitBias: toLogitBias(fields.logit_bias ?? {}, vocabSize),
    minTokens,
    ignoreEos: fields.ignore_eos ?? false,
    stopTokenIds: bytesOfInt32(toTokenIds(fields.stop_token_ids ?? [], vocabSize, 'stop_token_ids')),
    numLogprobs,
    numPromptLogprobs,
  });
}

function toLogitBias(biases: Readonly<Record<string, number>>, vocabSize: number): { tokenId: number; bias: number }[] {
  const entries = Object.entries(biases);
  if (entries.length > limits.logitBias)
    throw new XllmError('invalid_request', `logit_bias holds more than ${limits.logitBias} tokens.`, {
      param: 'logit_bias',
    });
  const byId = new Map(entries.map(([id, bias]) => [Number(id), bias]));
  toTokenIds([...byId.keys()], vocabSize, 'logit_bias');
  // JavaScript orders integer-like keys itself, but not past "007" and 2^32.
  return [...byId].sort(([a], [b]) => a - b).map(([tokenId, bias]) => ({ tokenId, bias }));
}

/** Stop strings as a list. */
export function stopsOf(fields: SamplingFields): readonly string[] {
  const { stop } = fields;
  if (stop === null || stop === undefined) return [];
  return typeof stop === 'string' ? [stop] : stop;
}

/** Throws XllmError `invalid_request` where stream_options come without stream. */
export function checkStreamOptions(fields: SamplingFields): void {
  if (fields.stream_options && !fields.stream)
    throw new XllmError('invalid_request', 'stream_options are allowed only with stream: true.', {
      param: 'stream_options',
    });
}
