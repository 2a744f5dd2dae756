// Holds logits to be the same bits whatever else is in the batch and however a prompt is cut (design: batch invariance).
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Feed, ModelRunner } from '../../src/engine/step/testing/model-runner.ts';
import { goldenFolder } from './golden-cases.ts';
import { kernelSets } from '../support/kernel-sets.ts';

const isFull = Boolean(process.env['XLLM_TEST_FULL']);
const defaultModel = join(homedir(), '.cache/xllm/models/SmolLM2-135M-Instruct.Q4_1.gguf');

/** A small generator of numbers in [0, bound), the same in every run. */
function randomFrom(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
}

interface Case {
  readonly name: string;
  readonly path: string;
  readonly dtype: 'auto' | 'float32';
  readonly numPrompt: number;
}

const cases: Case[] = [
  { name: 'tiny Llama, F32', path: join(goldenFolder, 'llama'), dtype: 'float32', numPrompt: 90 },
  { name: 'tiny Gemma 3, BF16', path: join(goldenFolder, 'gemma3_text'), dtype: 'auto', numPrompt: 90 },
  { name: 'default model, Q4_1 and Q8_0', path: defaultModel, dtype: 'auto', numPrompt: isFull ? 600 : 70 },
];
if (isFull) cases.push({ name: 'default model, F32', path: defaultModel, dtype: 'float32', numPrompt: 600 });

const numDecodes = 5;

describe.each(cases.filter(({ path }) => existsSync(path)))('$name', ({ path, dtype, numPrompt }) => {
  describe.each(kernelSets)('kernels %s', (kernels) => {
    let runner: ModelRunner;
    let random: (bound: number) => number;
    let tokens: number[];
    /** Logits after the prompt and after each decoded token, computed alone. */
    let alone: Float32Array[];

    const someTokens = (count: number) => Array.from({ length: count }, () => random(runner.model.config.vocabSize));
    /** Feeds slot 0 with `ids` at `position`, beside other sequences. */
    const amid = async (feed: Feed, others: readonly Feed[]) => {
      const at = random(others.length + 1);
      const { logits } = await runner.step([...others.slice(0, at), feed, ...others.slice(at)]);
      return logits[at]!;
    };
    const strangers = () =>
      Array.from(
        { length: 1 + random(4) },
        (_, i): Feed => ({ ids: someTokens(random(2) ? 1 : 2 + random(30)), position: 0, slot: 1 + i }),
      );

    beforeAll(async () => {
      runner = await ModelRunner.open(path, { kernels, dtype, deterministic: true, numThreads: 2, numPages: 1024 });
      random = randomFrom(7);
      tokens = someTokens(numPrompt + numDecodes);
      const first = await runner.step([{ ids: tokens.slice(0, numPrompt), position: 0, slot: 0 }]);
      alone = [first.logits[0]!];
      for (let i = numPrompt; i < tokens.length; i++) {
        const { logits } = await runner.step([{ ids: [tokens[i]!], position: i, slot: 0 }]);
        alone.push(logits[0]!);
      }
    });
    afterAll(() => runner.close());

    it('is the same in a batch', async () => {
      expect(await amid({ ids: tokens.slice(0, numPrompt), position: 0, slot: 0 }, strangers())).toEqual(alone[0]);
      for (let i = 0; i < numDecodes; i++) {
        const feed = { ids: [tokens[numPrompt + i]!], position: numPrompt + i, slot: 0 };
        expect(await amid(feed, strangers())).toEqual(alone[i + 1]);
      }
    });

    it('is the same whether tokens are decoded or prefilled', async () => {
      const outputs = alone.map((_, i) => numPrompt - 1 + i);
      const { logits } = await runner.step([{ ids: tokens, position: 0, slot: 0, outputs }]);
      expect(logits).toEqual(alone);
    });

    it('is the same for any cut of the prompt', async () => {
      for (let round = 0; round < (isFull ? 10 : 2); round++) {
        let last: Float32Array = new Float32Array(0);
        for (let done = 0; done < numPrompt; ) {
          const count = Math.min(numPrompt - done, 1 + random(50));
          last = await amid({ ids: tokens.slice(done, done + count), position: done, slot: 0 }, strangers());
          done += count;
        }
        expect(last).toEqual(alone[0]);
      }
    });
  });
});
