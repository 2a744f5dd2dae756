// `xllm bench kernels`: every case runs beside ggml, figures say what they mean, listings are found by name.
import { expect, describe, it } from 'vitest';
import { openGgml } from '../../engine/ffi/ggml.ts';
import { chooseKernels } from '../../engine/step/kernel-choice.ts';
import type { KernelCase } from './kernels/case.ts';
import { Measurer } from './kernels/measure.ts';
import type { MeasuredModel } from './kernels/models.ts';
import { figuresOf, kernelTable, type Peaks } from './kernels/report.ts';
import { benchKernels, casesOf } from './kernels-command.ts';
import { benchKernelsSchema } from './kernels-options.ts';

const tiny: MeasuredModel = {
  name: 'tiny',
  formats: ['Q4_0', 'F16'],
  hiddenSize: 64,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 16,
  ffnSize: 96,
  ropePairs: 'halves',
  hasHeadNorms: true,
};
const { kernels } = chooseKernels('auto', null);

it.skipIf(kernels === 'ggml')('measures every kind of kernel, and ggml where it has the same', () => {
  if (kernels === 'ggml') return;
  using measurer = new Measurer({ isa: kernels, numThreads: 2, ggml: openGgml(), rounds: 1 });
  for (const each of casesOf([tiny], [1, 16, 512])) {
    const { us, ggmlUs } = measurer.measure(each);
    // On a busy machine what is small beside starting it may seem to take no time at all.
    expect(us, each.kernel).toSatisfy(Number.isFinite);
    expect(ggmlUs === null, each.kernel).toBe(each.ggml === null);
  }
});

const peaks: Peaks = { int8Gops: 1000, f32Gflops: 100, memoryReadGBs: 50, cacheReadGBs: 200 };

describe('figures', () => {
  const caseOf = (work: Partial<KernelCase['work']>): KernelCase => ({
    kernel: 'product',
    model: 'tiny',
    shape: '64x64',
    rows: 16,
    work: { operations: 0, arithmetic: 'int8', operationsPerOperation: 1, bytes: 0, bytesIn: 'memory', ...work },
    emit: () => expect.unreachable(),
    ops: () => [],
    ggml: null,
  });

  it('name the bound that takes longer', () => {
    const many = figuresOf(caseOf({ operations: 4e6, bytes: 1e5 }), { us: 8, ggmlUs: 20 }, peaks);
    expect(many).toMatchObject({ bound: 'int8', share: 0.5, gops: 500, gbPerS: 12.5, ratio: 2.5 });
    const few = figuresOf(caseOf({ operations: 4e6, bytes: 3e5 }), { us: 8, ggmlUs: null }, peaks);
    expect(few).toMatchObject({ bound: 'memory', share: 0.75, ratio: null });
    const cached = figuresOf(caseOf({ bytes: 4e5, bytesIn: 'cache' }), { us: 8, ggmlUs: null }, peaks);
    expect(cached).toMatchObject({ bound: 'cache', share: 0.25, gops: null });
  });

  it('count the instructions of activations in two parts, but not as work', () => {
    const fine = figuresOf(caseOf({ operations: 4e6, operationsPerOperation: 2 }), { us: 8, ggmlUs: null }, peaks);
    expect(fine).toMatchObject({ share: 1, gops: 500 });
  });

  it('make a line each', () => {
    const figures = [figuresOf(caseOf({ operations: 4e6 }), { us: 8, ggmlUs: null }, peaks)];
    expect(
      kernelTable(figures, false)
        .trimEnd()
        .split('\n')
        .map((line) => line.split(/ {2,}/)),
    ).toEqual([
      ['kernel', 'model', 'shape', 'rows', 'us', 'GOPS', 'GB/s', '% of', 'bound', 'ggml us', 'ratio'],
      ['product', 'tiny', '64x64', '16', '8', '500', '0', '50', 'int8', '-', '-'],
    ]);
  });
});

describe('the command', () => {
  const run = async (flags: Record<string, unknown>): Promise<string> => {
    let text = '';
    const stdout = { write: (part: string) => (text += part) };
    const io = { stdout, stderr: { write: () => {} }, signal: new AbortController().signal, env: {} };
    await benchKernels(benchKernelsSchema.parse(flags), io);
    return text;
  };

  it('lists a kernel of either instruction set', async () => {
    for (const name of ['attention_f16_9_3x64_avx2', 'attention_f16_9_3x64_avx512']) {
      const text = await run({ listing: name });
      expect(text).toMatch(new RegExp(`^${name}: \\d+ bytes\n`));
      expect(text).toContain(`vfmadd231ps ${name.endsWith('512') ? 'zmm' : 'ymm'}`);
    }
  });

  it('says which there are', async () => {
    await expect(run({ listing: 'atention_avx2' })).rejects.toThrow(
      /no kernel atention_avx2: .*attention_f16_9_3x64_avx2/,
    );
    await expect(run({ listing: 'attention' })).rejects.toThrow('names end in avx512 or avx2');
    await expect(run({ only: ['Q9_9'] })).rejects.toThrow("no kernel's line has Q9_9 in it");
  });
});
