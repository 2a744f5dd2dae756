// Compares every architecture with the reference's outputs on tiny models, in F32, with and without emitted kernels.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { outputKind } from '../../src/engine/scheduler/plan.ts';
import { ModelRunner } from '../../src/engine/step/testing/model-runner.ts';
import { kernelSets } from '../support/kernel-sets.ts';
import { writeGoldenGguf } from './golden-gguf.ts';
import { type GoldenCase, goldenFolder, goldenModels, hubFolder, readGoldenCases } from './golden-cases.ts';

/** The README of the fixtures allows 1e-3 and expects 2e-5. */
const tolerance = 1e-4;

const maxDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((max, x, i) => Math.max(max, Math.abs(x - b[i]!)), 0);

describe.each(goldenModels)('%s', (model) => {
  let cases: GoldenCase[];
  beforeAll(async () => {
    cases = await readGoldenCases(model);
  });

  describe.each(kernelSets)('kernels %s', (kernels) => {
    let runner: ModelRunner;
    beforeAll(async () => {
      runner = await ModelRunner.open(join(goldenFolder, model), { dtype: 'float32', kernels });
    });
    afterAll(() => runner.close());

    it('has the reference logits at the last position', async () => {
      for (const { prompt, lastLogits } of cases) {
        const { logits } = await runner.step([{ ids: prompt, position: 0, slot: 0 }]);
        expect(maxDifference(logits[0]!, lastLogits)).toBeLessThan(tolerance);
      }
    });

    it('has the reference state at the last position', async () => {
      for (const { prompt, lastHidden } of cases) {
        const { output } = await runner.step([{ ids: prompt, position: 0, slot: 0, kind: outputKind.hidden }]);
        expect(output.tokenIds).toEqual(Int32Array.of(-1));
        expect(maxDifference(output.hidden![0]!, lastHidden)).toBeLessThan(tolerance);
      }
    });

    it('has the reference top 5 at every position, however the prompt is cut', async () => {
      for (const { prompt, top5Ids, top5Logits } of cases) {
        const all = prompt.map((_, i) => i);
        const whole = await runner.step([{ ids: prompt, position: 0, slot: 1, outputs: all }]);
        const cut = Math.ceil(prompt.length / 3);
        await runner.step([{ ids: prompt.slice(0, cut), position: 0, slot: 2 }]);
        const rest = await runner.step([
          { ids: prompt.slice(cut), position: cut, slot: 2, outputs: all.slice(0, prompt.length - cut) },
        ]);
        for (const i of all) {
          for (const logits of [whole.logits[i]!, ...(i < cut ? [] : [rest.logits[i - cut]!])]) {
            const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!);
            for (let k = 0; k < 5; k++) {
              expect(Math.abs(logits[top5Ids[i * 5 + k]!]! - top5Logits[i * 5 + k]!)).toBeLessThan(tolerance);
              expect(Math.abs(logits[order[k]!]! - top5Logits[i * 5 + k]!)).toBeLessThan(tolerance);
            }
          }
        }
      }
    });

    it('continues greedily as the reference does', async () => {
      for (const { prompt, greedyIds, greedyLastLogits } of cases) {
        const { ids, logits } = await runner.greedy(prompt, greedyIds.length);
        expect(ids).toEqual(greedyIds);
        expect(maxDifference(logits.at(-1)!, greedyLastLogits)).toBeLessThan(tolerance);
      }
    });
  });

  const expectLongestCase = async (path: string) => {
    const runner = await ModelRunner.open(path, { dtype: 'float32' });
    try {
      const { prompt, greedyIds, lastLogits } = cases[2]!;
      const { ids, logits } = await runner.greedy(prompt, greedyIds.length);
      expect(maxDifference(logits[0]!, lastLogits)).toBeLessThan(tolerance);
      expect(ids).toEqual(greedyIds);
    } finally {
      await runner.close();
    }
  };

  it('reads the config as published on the Hub', async () => {
    const folder = hubFolder(model);
    try {
      await expectLongestCase(folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('reads the same model from a GGUF file', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'xllm-golden-'));
    try {
      await writeGoldenGguf(model, join(folder, 'model.gguf'));
      await expectLongestCase(join(folder, 'model.gguf'));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
