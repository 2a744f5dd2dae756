// Owns tokens without a model: each is a hash of what its context hashes to, of the seed, and of what shapes sampling.
import { outputKind, type StepOutput, type StepPlan, type TopLogprobs } from '../scheduler/plan.ts';
import type { SampleRow } from '../scheduler/sampling-params.ts';

/** A stop token among the model's own comes about once in so many tokens; null: it comes by chance alone. */
export interface HashStops {
  readonly stopTokenIds: readonly number[];
  readonly meanTokens: number;
}

/** `contexts`: [O] what each output token's prefix hashes to. */
export function sampleHashes(
  plan: StepPlan,
  contexts: readonly number[],
  vocabSize: number,
  stops: HashStops | null = null,
): StepOutput {
  const numOutputs = contexts.length;
  const tokenIds = new Int32Array(numOutputs).fill(-1);
  const logprobs = new Float32Array(numOutputs).fill(Number.NaN);
  const topLogprobs: (TopLogprobs | null)[] = [];
  contexts.forEach((context, i) => {
    const row = plan.sampling[i]!;
    const isScore = plan.outputKinds[i] === outputKind.promptLogprobs;
    const token = isScore ? plan.targetIds[i]! : sampleToken(context, row, vocabSize, stops);
    if (!isScore) tokenIds[i] = token;
    if (row.numLogprobs >= 0) logprobs[i] = -(mix(context, token) >>> 20) / 256;
    topLogprobs.push(
      row.numLogprobs > 0 ? { ids: Int32Array.of(token), logprobs: logprobs.slice(i, i + 1), rank: 1 } : null,
    );
  });
  return { stepId: plan.stepId, tokenIds, logprobs, topLogprobs, graphMode: 'eager', computeMs: 0 };
}

function sampleToken(context: number, row: SampleRow, vocabSize: number, stops: HashStops | null): number {
  let hash = mix(context, row.position);
  if (row.temperature > 0) {
    hash = mix(mix(hash, Number(BigInt.asIntN(32, row.seed))), Number(BigInt.asIntN(32, row.seed >> 32n)));
    for (const part of [row.temperature, row.topK, row.topP, row.minP]) hash = mix(hash, Math.round(part * 1e4));
  }
  const forbidden = new Set<number>();
  row.edits?.tokenIds.forEach((tokenId, i) => {
    if (row.edits!.add[i] === Number.NEGATIVE_INFINITY) forbidden.add(tokenId);
    else hash = mix(hash, tokenId);
  });
  const stop = stops?.stopTokenIds[0];
  if (stops && stop !== undefined && !forbidden.has(stop) && mix(hash, 3) >>> 0 < 2 ** 32 / stops.meanTokens)
    return stop;
  let token = (hash >>> 0) % vocabSize;
  while (forbidden.has(token)) token = (token + 1) % vocabSize;
  return token;
}

/** One round of a 32-bit mixer (the finaliser of MurmurHash3). */
export function mix(a: number, b: number): number {
  let hash = Math.imul(a ^ Math.imul(b, 0x9e3779b1), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
