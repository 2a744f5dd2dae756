// Owns sampling without emitted code: the twin over the logits, with a quick way for plain greedy rows.
import { resultFlag } from '../jit/kernels/sampler-abi.ts';
import type { SampleRow } from '../scheduler/sampling-params.ts';
import { sane } from './math.ref.ts';
import { rowConstants } from './row-constants.ts';
import { type Choice, rawStats, sampleToken } from './sample.ref.ts';
import { emptyOutput, type SamplerInput, type SamplerOutput, taskOf, wantsStats } from './sampler-task.ts';
import { blockMaximaOf, topLogprobs } from './top-logprobs.ts';

/** logits [≥ O, V]; same results as the emitted sampler, bit for bit. `numIds`: ids that have a token. */
export function sampleInTypeScript(
  input: SamplerInput,
  logits: Float32Array,
  vocabSize: number,
  numIds: number,
): SamplerOutput {
  const numOutputs = input.sampling.length;
  const output = emptyOutput(numOutputs);
  for (let i = 0; i < numOutputs; i++) {
    const task = taskOf(input, i);
    if (task.kind === 'skip') continue;
    const row = logits.subarray(i * vocabSize, (i + 1) * vocabSize);
    const choice = task.kind === 'sample' ? choose(row, numIds, task.row) : target(row, numIds, task.targetId);
    output.flags[i] = choice.flags;
    if (task.kind === 'sample') output.tokenIds[i] = choice.tokenId;
    if (!wantsStats(task)) continue;
    const { logprob, logSumExp, rank } = rawStats(row, numIds, choice.tokenId);
    output.logprobs[i] = logprob;
    if (task.row.numLogprobs < 0) continue;
    const raw = { logits: row, numIds, blockMaxima: blockMaximaOf(row, numIds), logSumExp };
    output.topLogprobs[i] = topLogprobs(raw, task.row.numLogprobs, rank);
  }
  return output;
}

function choose(logits: Float32Array, numIds: number, row: SampleRow): Choice {
  const isPlain = !row.edits && rowConstants(row, numIds).isGreedy;
  return isPlain ? greedy(logits, numIds) : sampleToken(logits, numIds, row);
}

const target = (logits: Float32Array, numIds: number, tokenId: number): Choice => ({
  tokenId,
  flags: greedy(logits, numIds).flags & resultFlag.sawNaN,
});

/** What `sampleToken` says of a greedy row without edits, in one pass. */
function greedy(logits: Float32Array, numIds: number): Choice {
  let best = -Infinity;
  let tokenId = -1;
  let flags = 0;
  for (let group = 0; group < numIds; group += 4) {
    // Four comparisons for nearly every four logits: false for what is larger and for NaN (and past the end).
    if (
      logits[group]! <= best &&
      logits[group + 1]! <= best &&
      logits[group + 2]! <= best &&
      logits[group + 3]! <= best
    )
      continue;
    for (let id = group; id < Math.min(group + 4, numIds); id++) {
      const value = sane(logits[id]!);
      if (logits[id] !== logits[id]) flags = resultFlag.sawNaN;
      if (value > best) {
        best = value;
        tokenId = id;
      }
    }
  }
  return tokenId < 0 ? { tokenId: 0, flags: flags | resultFlag.noCandidate } : { tokenId, flags };
}
