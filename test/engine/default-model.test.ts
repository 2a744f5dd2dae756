// Holds the default model to the reference: teacher-forced choices, log-probabilities and perplexity (issue: acceptance 2).
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolveModel } from '../../src/files/resolve/resolve-model.ts';
import { modelSettings } from '../../src/files/resolve/settings.ts';
import { ModelRunner } from '../../src/engine/step/testing/model-runner.ts';
import { kernelSets } from '../support/kernel-sets.ts';
import { goldenFolder } from './golden-cases.ts';

const isFull = Boolean(process.env['XLLM_TEST_FULL']);

interface ReferencePrompt {
  readonly prompt_ids: number[];
  readonly greedy_ids: number[];
  readonly greedy_gaps: number[];
  /** Of the first 8 steps. */
  readonly top20: { readonly ids: number[]; readonly logprobs: number[] }[];
}

const readJson = <T>(name: string): T =>
  JSON.parse(readFileSync(join(goldenFolder, 'smollm2-135m-q4_1', name), 'utf8')) as T;

/** Natural-log probabilities. */
function logSoftmax(logits: Float32Array): Float32Array {
  const max = logits.reduce((a, b) => Math.max(a, b));
  const logSum = max + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - max), 0));
  return logits.map((x) => x - logSum);
}

const argMax = (values: Float32Array) => values.reduce((best, x, i) => (x > values[best]! ? i : best), 0);

describe('default model', () => {
  describe.each(isFull ? kernelSets : (['auto'] as const))('kernels %s', (kernels) => {
    let runner: ModelRunner;
    beforeAll(async () => {
      const { path } = await resolveModel(undefined, { settings: modelSettings(process.env) });
      runner = await ModelRunner.open(path, { kernels, numPages: 512 });
    });
    afterAll(() => runner.close());

    it('follows the reference, teacher-forced', async () => {
      const { prompts } = readJson<{ prompts: ReferencePrompt[] }>('expected.json');
      let numSteps = 0;
      let numAgreeing = 0;
      const surprises: string[] = [];
      const errors: number[] = [];
      for (const [p, { prompt_ids, greedy_ids, greedy_gaps, top20 }] of prompts.entries()) {
        const ids = [...prompt_ids, ...greedy_ids.slice(0, -1)];
        const outputs = greedy_ids.map((_, i) => prompt_ids.length - 1 + i);
        const { logits } = await runner.step([{ ids, position: 0, slot: 0, outputs }]);
        for (const [i, row] of logits.entries()) {
          numSteps++;
          if (argMax(row) === greedy_ids[i]) numAgreeing++;
          else if (greedy_gaps[i]! > 1) surprises.push(`prompt ${p}, step ${i}, margin ${greedy_gaps[i]}`);
          const reference = top20[i];
          if (!reference) continue;
          const logprobs = logSoftmax(row);
          for (let k = 0; k < 5; k++) errors.push(Math.abs(logprobs[reference.ids[k]!]! - reference.logprobs[k]!));
        }
      }
      const meanError = errors.reduce((a, b) => a + b, 0) / errors.length;
      console.log(`agreement ${numAgreeing}/${numSteps}, mean top-5 error ${meanError.toFixed(4)}`);
      expect(surprises).toEqual([]);
      expect(numAgreeing / numSteps).toBeGreaterThanOrEqual(0.965);
      expect(meanError).toBeLessThan(0.12);
    });

    it('has the perplexity of the reference', async () => {
      const reference = readJson<{ ids: number[]; window: number; mean_nll: number; window_mean_nll: number[] }>(
        'perplexity.json',
      );
      const { window } = reference;
      const numWindows = isFull ? reference.window_mean_nll.length : 1;
      let sum = 0;
      for (let w = 0; w < numWindows; w++) {
        const ids = reference.ids.slice(w * window, (w + 1) * window);
        const chunk = 128;
        for (let from = 0; from < window; from += chunk) {
          const outputs = Array.from({ length: chunk }, (_, i) => i);
          const piece = ids.slice(from, from + chunk);
          const { logits } = await runner.step([{ ids: piece, position: from, slot: 0, outputs }]);
          for (const [i, row] of logits.entries()) {
            const target = ids[from + i + 1];
            if (target !== undefined) sum -= logSoftmax(row)[target]!;
          }
        }
      }
      const meanNll = sum / (numWindows * (window - 1));
      const wanted = isFull ? reference.mean_nll : reference.window_mean_nll[0]!;
      console.log(`perplexity ${Math.exp(meanNll).toFixed(3)}, reference ${Math.exp(wanted).toFixed(3)}`);
      // A single window has four times the noise.
      expect(Math.abs(Math.exp(meanNll - wanted) - 1)).toBeLessThan(isFull ? 0.01 : 0.02);
    });
  });
});
