// Owns reading the emitted sampler's results. Layout: jit/kernels/sampler-abi.ts.
import { resultElements, resultField } from '../jit/kernels/sampler-abi.ts';
import { blockSize } from '../jit/kernels/sampler-math.ts';
import { emptyOutput, type SamplerInput, type SamplerOutput, taskOf, wantsStats } from './sampler-task.ts';
import { topLogprobs } from './top-logprobs.ts';

export interface SampleResults {
  /** I32 [≥ O, resultElements(V)], as the kernel left it. */
  readonly results: Int32Array;
  /** F32 [≥ O, V] raw logits; read only for alternatives. */
  readonly logits: Float32Array;
  readonly vocabSize: number;
  readonly numIds: number;
}

/** `input` as it was given to `writeSampleBlock`. */
export function readSampleResults(
  input: SamplerInput,
  { results, logits, vocabSize, numIds }: SampleResults,
): SamplerOutput {
  const numOutputs = input.sampling.length;
  const output = emptyOutput(numOutputs);
  const rowElements = resultElements(vocabSize);
  const floats = new Float32Array(results.buffer, results.byteOffset, results.length);
  for (let i = 0; i < numOutputs; i++) {
    const task = taskOf(input, i);
    if (task.kind === 'skip') continue;
    const at = i * rowElements;
    output.flags[i] = results[at + resultField.flags / 4]!;
    if (task.kind === 'sample') output.tokenIds[i] = results[at + resultField.tokenId / 4]!;
    if (!wantsStats(task)) continue;
    output.logprobs[i] = floats[at + resultField.logprob / 4]!;
    if (task.row.numLogprobs < 0) continue;
    const firstMaximum = at + resultField.blockMaxima / 4;
    const raw = {
      logits: logits.subarray(i * vocabSize, (i + 1) * vocabSize),
      numIds,
      blockMaxima: floats.subarray(firstMaximum, firstMaximum + Math.ceil(numIds / blockSize)),
      logSumExp: floats[at + resultField.logSumExp / 4]!,
    };
    output.topLogprobs[i] = topLogprobs(raw, task.row.numLogprobs, results[at + resultField.rank / 4]!);
  }
  return output;
}
