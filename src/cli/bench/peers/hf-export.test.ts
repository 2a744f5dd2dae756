import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readModelConfig } from '../../../engine/models/registry.ts';
import { modelShapes } from '../../../files/model-shapes.ts';
import { openWeights } from '../../../files/open-weights.ts';
import { synthesiseModel } from '../../../files/synthesise.ts';
import type { WeightsFile } from '../../../files/weights-file.ts';
import { exportHuggingFace, halvesOfPairs } from './hf-export.ts';

const folder = mkdtempSync(join(tmpdir(), 'xllm-export-'));
afterAll(() => rmSync(folder, { recursive: true }));

const ggufPath = (name: string) => join(folder, `${name}.gguf`);

async function exported(name: string, use: (source: WeightsFile, target: WeightsFile) => Promise<void>): Promise<void> {
  await exportHuggingFace(ggufPath(name), join(folder, name));
  const [source, target] = [await openWeights(ggufPath(name)), await openWeights(join(folder, name))];
  try {
    await use(source, target);
  } finally {
    source.close();
    target.close();
  }
}

async function bytesOf(file: WeightsFile, name: string): Promise<Buffer> {
  const bytes = Buffer.alloc(file.tensors.get(name)?.numBytes ?? 0);
  await file.read(name, bytes);
  return bytes;
}

beforeAll(async () => {
  for (const name of ['tiny-llama', 'tiny-qwen2', 'tiny-qwen3', 'tiny-mistral', 'tiny-gemma3'])
    await synthesiseModel({ name, shape: modelShapes[name]!, dtype: 'BF16', path: ggufPath(name), seed: 0 });
});

describe('exportHuggingFace', () => {
  it.each(['tiny-llama', 'tiny-qwen2', 'tiny-qwen3'])('%s reads back as the same model', async (name) => {
    await exported(name, async (source, target) => {
      const { ropePairs: _, ...expected } = await readModelConfig(source);
      expect(await readModelConfig(target)).toMatchObject({ ...expected, ropePairs: 'halves' });
      expect(target.tensors.size).toBe(source.tensors.size);
      expect(await bytesOf(target, 'model.embed_tokens.weight')).toEqual(await bytesOf(source, 'token_embd.weight'));
      expect(await bytesOf(target, 'model.layers.1.mlp.down_proj.weight')).toEqual(
        await bytesOf(source, 'blk.1.ffn_down.weight'),
      );
    });
  });

  it("puts the rows of a llama's rotated pairs back, and leaves those of other models", async () => {
    const rowBytes = 64 * 2;
    const row = (bytes: Buffer, index: number) => bytes.subarray(index * rowBytes, (index + 1) * rowBytes);
    await exported('tiny-llama', async (source, target) => {
      const from = await bytesOf(source, 'blk.0.attn_q.weight');
      const to = await bytesOf(target, 'model.layers.0.self_attn.q_proj.weight');
      // Heads of 32: pairs (0, 16), (1, 17), … lie side by side in the GGUF.
      expect(row(to, 32 + 0)).toEqual(row(from, 32 + 0));
      expect(row(to, 32 + 16)).toEqual(row(from, 32 + 1));
      expect(row(to, 32 + 1)).toEqual(row(from, 32 + 2));
      expect(row(to, 32 + 31)).toEqual(row(from, 32 + 31));
    });
    await exported('tiny-qwen3', async (source, target) =>
      expect(await bytesOf(target, 'model.layers.0.self_attn.k_proj.weight')).toEqual(
        await bytesOf(source, 'blk.0.attn_k.weight'),
      ),
    );
  });

  it.each(['tiny-mistral', 'tiny-gemma3'])('%s is refused, and leaves nothing', async (name) => {
    await expect(exportHuggingFace(ggufPath(name), join(folder, name))).rejects.toThrow(/not exported/);
    expect(existsSync(join(folder, name))).toBe(false);
  });
});

describe('halvesOfPairs', () => {
  it('undoes what the converter does to a head', () => {
    const converted = Float32Array.from([0, 4, 1, 5, 2, 6, 3, 7]); // of a head of rows 0 to 7, one element each
    expect([...halvesOfPairs(converted, 8, 1)]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });
});
