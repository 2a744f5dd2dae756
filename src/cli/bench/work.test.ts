import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { modelShapes } from '../../files/model-shapes.ts';
import { openWeights } from '../../files/open-weights.ts';
import { synthesiseModel } from '../../files/synthesise.ts';
import { boundsOf, modelWork } from './work.ts';

const folder = mkdtempSync(join(tmpdir(), 'xllm-work-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function workOf(name: string) {
  const path = join(folder, `${name}.gguf`);
  await synthesiseModel({ name, shape: modelShapes[name]!, dtype: 'Q8_0', path, seed: 0 });
  const file = await openWeights(path);
  if (file.kind !== 'gguf') throw new Error(path);
  try {
    return await modelWork(file);
  } finally {
    file.close();
  }
}

// Two layers of q, k, v, o (64 in, 4 and 2 heads of 32) and gate, up, down (128 wide).
const layers = 2 * (64 * 128 + 2 * 64 * 64 + 128 * 64 + 3 * 64 * 128);
const head = 512 * 64;

describe('modelWork', () => {
  it('reads a tied embedding as the head, one of its own not at all', async () => {
    const expected = {
      layerElements: layers,
      headElements: head,
      weightBytes: ((layers + head) / 32) * 34,
      kvBytesPerToken: 2 * 2 * 32 * 2 * 2,
      isQuantised: true,
    };
    expect(await workOf('tiny-qwen3')).toEqual(expected);
    expect(await workOf('tiny-llama')).toEqual(expected);
  });
});

describe('boundsOf', () => {
  const work = { weightBytes: 1e9, layerElements: 1e9, headElements: 1e8, kvBytesPerToken: 1e4, isQuantised: true };
  const roofline = { threads: 2, memoryReadGBs: 50, int8Gops: 1000, bf16Gflops: null, f32Gflops: 100 };

  it('lets sequences share the reading of the weights, but not of their caches', () => {
    const load = { concurrency: 10, numPrompt: 1, numOutput: 101, meanContext: 1000 };
    // 100 decodes: 100 / 10 readings of 1e9 bytes, and 100 * 1000 * 1e4 bytes of keys and values.
    expect(boundsOf(work, load, roofline).memory).toBeCloseTo((101 * 50e9) / (10e9 + 1e9));
  });

  it('multiplies every token by the layers, those wanted by the head', () => {
    const load = { concurrency: 10, numPrompt: 900, numOutput: 101, meanContext: 0 };
    expect(boundsOf(work, load, roofline).product).toBeCloseTo((101 * 1e12) / (2 * (1e9 * 1000 + 1e8 * 101)));
  });

  it('counts prompt tokens where one output is asked for', () => {
    const load = { concurrency: 1, numPrompt: 512, numOutput: 1, meanContext: 0 };
    expect(boundsOf(work, load, roofline)).toEqual({
      product: (512 * 1e12) / (2 * (1e9 * 512 + 1e8)),
      memory: 512 * 50,
    });
  });
});
