// Owns the validation of a submitted request: everything that native code will see is checked here (pure).
import { isRefusal, type Refusal } from '../../common/errors.ts';
import { int32OfBytes } from '../../contract/codec.ts';
import type { Sampling, SubmitRequest } from '../../contract/generated/xllm_pb.js';
import type { SamplingParams } from '../scheduler/sampling-params.ts';
import type { SequenceSpec } from '../scheduler/spec.ts';

const MAX_CHOICES = 128;
const MAX_LOGPROBS = 20;

export interface SubmitLimits {
  readonly vocabSize: number;
  readonly maxModelLen: number;
}

/** A spec without the ids that the server gives out. */
export type SpecBody = Omit<SequenceSpec, 'id' | 'group'>;

const invalid = (message: string): Refusal => ({ refused: 'invalid_request', message });

/** One spec per choice, or why the request is refused. `nowMs` is the engine's clock. */
export function specsOfSubmit(
  request: SubmitRequest,
  limits: SubmitLimits,
  nowMs: number,
): readonly SpecBody[] | Refusal {
  if (request.promptIds.length === 0) return invalid('the prompt is empty');
  if (request.promptIds.length % 4 !== 0) return invalid('prompt_ids is not an array of i32');
  const promptIds = int32OfBytes(request.promptIds);
  const stray = promptIds.find((id) => id < 0 || id >= limits.vocabSize);
  if (stray !== undefined) return invalid(`token id ${stray} is outside the vocabulary (0 to ${limits.vocabSize - 1})`);
  if (request.seeds.length === 0 || request.seeds.length > MAX_CHOICES)
    return invalid(`1 to ${MAX_CHOICES} seeds are needed`);
  if (request.maxTokens < 1) return invalid('max_tokens must be at least 1');
  const generated = generatedOf(request, limits);
  if (isRefusal(generated)) return generated;
  const params = paramsOf(request, limits);
  if (isRefusal(params)) return params;
  const deadlineMs = request.deadlineMs > 0 ? nowMs + request.deadlineMs : Number.POSITIVE_INFINITY;
  return request.seeds.map((seed, choice) => ({
    promptIds,
    generatedIds: generated[choice] ?? new Int32Array(0),
    params,
    seed,
    priority: request.priority,
    offline: request.offline,
    cacheSalt: request.cacheSalt,
    deadlineMs,
  }));
}

/** By seed; empty: nothing was generated before. */
function generatedOf(request: SubmitRequest, { vocabSize }: SubmitLimits): readonly Int32Array[] | Refusal {
  const { generatedIds, seeds, maxTokens } = request;
  if (generatedIds.length === 0) return [];
  if (generatedIds.length !== seeds.length) return invalid('generated_ids must be one per seed');
  const generated: Int32Array[] = [];
  for (const bytes of generatedIds) {
    if (bytes.length % 4 !== 0) return invalid('generated_ids is not an array of i32');
    const ids = int32OfBytes(bytes);
    if (ids.some((id) => id < 0 || id >= vocabSize)) return invalid('generated_ids is outside the vocabulary');
    if (ids.length >= maxTokens) return invalid(`${ids.length} tokens were generated of ${maxTokens} wanted`);
    generated.push(ids);
  }
  return generated;
}

/** [field, from, to]: values outside, and NaN, are refused. */
const ranges: readonly (readonly [keyof Sampling, number, number])[] = [
  ['temperature', 0, 100],
  ['topP', 0, 1],
  ['minP', 0, 1],
  ['repetitionPenalty', 1e-3, 1e3],
  ['presencePenalty', -100, 100],
  ['frequencyPenalty', -100, 100],
  ['numLogprobs', -1, MAX_LOGPROBS],
  ['numPromptLogprobs', -1, MAX_LOGPROBS],
];

function paramsOf(request: SubmitRequest, limits: SubmitLimits): SamplingParams | Refusal {
  const { sampling } = request;
  if (!sampling) return invalid('sampling is missing');
  for (const [field, from, to] of ranges) {
    const value = Number(sampling[field]);
    if (!(value >= from && value <= to)) return invalid(`${field} must be from ${from} to ${to}, not ${value}`);
  }
  if (sampling.stopTokenIds.length % 4 !== 0) return invalid('stop_token_ids is not an array of i32');
  const isToken = (id: number) => id >= 0 && id < limits.vocabSize;
  const bias = sampling.logitBias
    .map((entry) => ({ tokenId: entry.tokenId, bias: entry.bias }))
    .sort((a, b) => a.tokenId - b.tokenId);
  for (const { tokenId, bias: value } of bias) {
    if (!isToken(tokenId) || !Number.isFinite(value)) return invalid(`logit_bias of token ${tokenId} is not valid`);
  }
  return {
    temperature: sampling.temperature,
    topK: Math.max(0, sampling.topK),
    // A top_p of 0 keeps the likeliest token alone.
    topP: sampling.topP,
    minP: sampling.minP,
    repetitionPenalty: sampling.repetitionPenalty,
    presencePenalty: sampling.presencePenalty,
    frequencyPenalty: sampling.frequencyPenalty,
    logitBias: bias,
    minTokens: sampling.minTokens,
    maxTokens: request.maxTokens,
    ignoreEos: sampling.ignoreEos,
    stopTokenIds: [...int32OfBytes(sampling.stopTokenIds)].filter(isToken),
    numLogprobs: sampling.numLogprobs,
    numPromptLogprobs: sampling.numPromptLogprobs,
  };
}
