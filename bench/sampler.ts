// Measures sampling: the emitted kernel per row, the same without emitted code, and what it costs the event loop.
// Run: node bench/sampler.ts
import { supportedIsas } from '../src/engine/jit/cpu-features.ts';
import { createEditsBuilder } from '../src/engine/sampler/edits.ts';
import { sampleInTypeScript } from '../src/engine/sampler/fallback.ts';
import { sampleBlockBytes, writeSampleBlock } from '../src/engine/sampler/sample-block.ts';
import { KernelRig } from '../src/engine/sampler/testing/kernel-rig.ts';
import { outputKind } from '../src/engine/scheduler/plan.ts';
import type { SampleRow, SamplingParams } from '../src/engine/scheduler/sampling-params.ts';

const plain: SampleRow = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 7n,
  position: 3,
  edits: null,
  numLogprobs: -1,
};
const cases: Readonly<Record<string, Partial<SampleRow>>> = {
  greedy: { temperature: 0 },
  'greedy, 20 logprobs': { temperature: 0, numLogprobs: 20 },
  temperature: {},
  'top-k 50': { topK: 50 },
  'top-p 0.95': { topP: 0.95 },
  'top-k 50, top-p 0.95': { topK: 50, topP: 0.95 },
  'min-p 0.05': { minP: 0.05 },
};

/** Logits as a language model makes them: a normal crowd, and a few dozen words that fit. */
function languageLogits(vocabSize: number): Float32Array {
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  const logits = new Float32Array(vocabSize);
  for (let id = 0; id < vocabSize; id++)
    logits[id] = 3 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  for (let i = 0; i < 30; i++) logits[Math.floor(uniform() * vocabSize)] = 12 + 8 * uniform();
  return logits;
}

/** Median microseconds of `run`. */
function measure(run: () => void, numRuns: number): number {
  const times: number[] = [];
  for (let i = -numRuns / 4; i < numRuns; i++) {
    const start = performance.now();
    run();
    if (i >= 0) times.push((performance.now() - start) * 1000);
  }
  return times.sort((a, b) => a - b)[numRuns >> 1] ?? Number.NaN;
}

const inputOf = (rows: readonly SampleRow[]) => ({
  outputKinds: new Uint8Array(rows.length).fill(outputKind.sample),
  targetIds: new Int32Array(rows.length).fill(-1),
  sampling: rows,
});

const rigs = supportedIsas().map((isa) => ({ isa, rig: new KernelRig(isa, 'native') }));
for (const vocabSize of [49_152, 151_936]) {
  const logits = languageLogits(vocabSize);
  for (const [name, more] of Object.entries(cases)) {
    const input = inputOf([{ ...plain, ...more }]);
    const columns = rigs.map(({ isa, rig }) => {
      using prepared = rig.prepare(input, logits, vocabSize, vocabSize);
      return `${isa} ${measure(() => prepared.run(), 400).toFixed(1)} us`;
    });
    const host = measure(() => sampleInTypeScript(input, logits, vocabSize, vocabSize), 40);
    console.log(`V ${vocabSize}  ${name.padEnd(21)} ${columns.join('  ')}  TypeScript ${host.toFixed(0)} us`);
  }
}

const params: SamplingParams = {
  ...plain,
  repetitionPenalty: 1.1,
  presencePenalty: 0,
  frequencyPenalty: 0.1,
  logitBias: [],
  minTokens: 0,
  maxTokens: 4096,
  ignoreEos: false,
  stopTokenIds: [],
  numPromptLogprobs: -1,
};
const numPrompt = 1000;
const sequence = {
  params,
  tokens: Int32Array.from({ length: 100_000 }, (_, i) => (i * 7919) % 40_000),
  numTokens: numPrompt,
  numPrompt,
};
const builder = createEditsBuilder([2]);
const editUs = measure(() => builder.editsFor(sequence, ++sequence.numTokens), 400);
console.log(`event loop: ${editUs.toFixed(1)} us for the edits of a penalised sequence of 1,000 to 1,500 tokens`);

const numRows = 16;
const logits = languageLogits(49_152);
for (const numLogprobs of [-1, 20]) {
  const input = inputOf(Array.from({ length: numRows }, (_, i) => ({ ...plain, position: i, numLogprobs })));
  const buffer = new ArrayBuffer(sampleBlockBytes(input));
  const options = { numIds: logits.length, scratch: 0, scratchBytes: 0 };
  const writeUs = measure(() => writeSampleBlock(buffer, 0, input, options), 400);
  const all = Float32Array.from({ length: numRows * logits.length }, (_, i) => logits[i % logits.length] ?? 0);
  const [first] = rigs;
  if (!first) continue;
  using prepared = first.rig.prepare(input, all, logits.length, logits.length);
  prepared.run();
  const readUs = measure(() => prepared.outputs(), 400);
  console.log(
    `event loop: ${writeUs.toFixed(1)} us to write ${numRows} rows, ${readUs.toFixed(1)} us to read them, logprobs ${numLogprobs}`,
  );
}
for (const { rig } of rigs) rig.free();
