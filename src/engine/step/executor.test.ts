// Both executors on a tiny model: graph modes, placeholders, log-probabilities, kernels chosen.
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { outputKind, type StepPlan } from '../scheduler/plan.ts';
import { ModelRunner } from './testing/model-runner.ts';

const tinyLlama = join(import.meta.dirname, '../../../test/fixtures/golden/llama');
const prompt = Array.from({ length: 21 }, (_, i) => (i * 37) % 250);

describe.each(['auto', 'ggml'] as const)('kernels %s', (kernels) => {
  let runner: ModelRunner;
  beforeAll(async () => {
    runner = await ModelRunner.open(tinyLlama, { dtype: 'float32', kernels });
  });
  afterAll(() => runner.close());

  it('builds nothing for shapes that come back', async () => {
    const modes: string[] = [];
    for (let i = 0; i < 4; i++) {
      const { output } = await runner.step([{ ids: [7], position: i, slot: 3 }]);
      modes.push(output.graphMode);
    }
    const isProgram = runner.executor.choice.kernels !== 'ggml';
    expect(modes).toEqual(isProgram ? modes.map(() => 'full') : ['eager', 'partial', 'partial', 'partial']);
  });

  it('fills placeholders from the step before, whichever row they were', async () => {
    const feeds = [
      { ids: prompt.slice(0, 9), position: 0, slot: 0 },
      { ids: prompt, position: 0, slot: 1 },
    ];
    const first = await runner.step(feeds);
    const known = await runner.step([
      { ids: [first.output.tokenIds[1]!], position: 21, slot: 1 },
      { ids: [first.output.tokenIds[0]!], position: 9, slot: 0 },
    ]);
    await runner.step(feeds);
    const filled = await runner.step([
      { ids: [-1], previousOutput: 1, position: 21, slot: 1 },
      { ids: [-1], previousOutput: 0, position: 9, slot: 0 },
    ]);
    expect(filled.logits).toEqual(known.logits);
  });

  it('prepares the next step while one runs, without disturbing it', async () => {
    const { executor } = runner;
    const alone = await runner.step([{ ids: prompt, position: 0, slot: 0 }]);
    const plans = [
      runner.plan([{ ids: prompt, position: 0, slot: 0 }]),
      runner.plan([{ ids: prompt.toReversed(), position: 0, slot: 1 }]),
      runner.plan([{ ids: prompt, position: 0, slot: 2 }]),
    ] as [StepPlan, StepPlan, StepPlan];
    await executor.prepare(plans[0]);
    const first = executor.run(plans[0]);
    await executor.prepare(plans[1]);
    expect((await first).tokenIds).toEqual(alone.output.tokenIds);
    const second = executor.run(plans[1]);
    await executor.prepare(plans[2]);
    await second;
    expect((await executor.run(plans[2])).tokenIds).toEqual(alone.output.tokenIds);
  });

  it('steps without outputs fill the cache', async () => {
    const whole = await runner.step([{ ids: prompt, position: 0, slot: 0 }]);
    const silent = await runner.step([{ ids: prompt.slice(0, 13), position: 0, slot: 1, outputs: [] }]);
    expect(silent.output.tokenIds).toHaveLength(0);
    const rest = await runner.step([{ ids: prompt.slice(13), position: 13, slot: 1 }]);
    for (const [i, logit] of rest.logits[0]!.entries()) expect(logit).toBeCloseTo(whole.logits[0]![i]!, 4);
  });

  it('reports log-probabilities of sampled and of given tokens', async () => {
    const { output, logits } = await runner.step([
      { ids: prompt, position: 0, slot: 0, sampling: { numLogprobs: 3 } },
      {
        ids: prompt,
        position: 0,
        slot: 1,
        outputs: [4, 5],
        kind: outputKind.promptLogprobs,
        targets: [prompt[5]!, prompt[6]!],
        sampling: { numLogprobs: 0 },
      },
    ]);
    const logprob = (row: number, id: number) => {
      const sum = logits[row]!.reduce((total, x) => total + Math.exp(x), 0);
      return logits[row]![id]! - Math.log(sum);
    };
    const [sampled] = output.tokenIds as unknown as [number];
    expect(output.tokenIds.slice(1)).toEqual(Int32Array.of(-1, -1));
    expect(output.logprobs[0]).toBeCloseTo(logprob(0, sampled), 4);
    expect(output.topLogprobs[0]).toMatchObject({ rank: 1 });
    expect(output.topLogprobs[0]!.ids).toHaveLength(3);
    expect(output.topLogprobs[0]!.ids[0]).toBe(sampled);
    expect(output.logprobs[1]).toBeCloseTo(logprob(1, prompt[5]!), 4);
    expect(output.logprobs[2]).toBeCloseTo(logprob(2, prompt[6]!), 4);
  });

  it('refuses to run what was not prepared', async () => {
    await expect(runner.executor.run(runner.plan([{ ids: [1], position: 0, slot: 0 }]))).rejects.toThrow(
      'not prepared',
    );
  });

  it('says which kernels run', () => {
    const possible = kernels === 'ggml' ? ['ggml'] : ['avx512', 'avx2', 'ggml'];
    expect(possible).toContain(runner.executor.choice.kernels);
    expect(runner.executor.numericsId).toMatch(/^[0-9a-f]{16}$/);
  });
});

it('tells results of different rounding apart', async () => {
  const ids = new Set<string>();
  const ggml = { kernels: 'ggml' } as const;
  for (const options of [{}, { dtype: 'float32' }, ggml, { ...ggml, deterministic: true }] as const) {
    const runner = await ModelRunner.open(tinyLlama, options);
    ids.add(runner.executor.numericsId);
    await runner.close();
  }
  expect(ids.size).toBe(4);
});

it('refuses kernels that cannot run', async () => {
  await expect(ModelRunner.open(tinyLlama, { kernels: 'neon' as 'ggml' })).rejects.toThrow(
    /--kernels neon: this CPU lacks neon/,
  );
});
