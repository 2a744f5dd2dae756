// Owns the tests of random-weights models: sound files, equal from equal seeds, which llama.cpp loads and computes.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { WritableDType } from '../../src/files/encode-tensor.ts';
import { modelShapes, type ModelShape, tensorsOf } from '../../src/files/model-shapes.ts';
import { openWeights } from '../../src/files/open-weights.ts';
import { synthesiseModel } from '../../src/files/synthesise.ts';
import type { GgufMetadata } from '../../src/files/weights-file.ts';
import { useTempFolder } from './temp-folder.ts';

const folder = useTempFolder('synth');
const dtypes: readonly WritableDType[] = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1'];
const tinyNames = Object.keys(modelShapes).filter((name) => name.startsWith('tiny-'));

async function synthesise(name: string, dtype: WritableDType, seed = 0, tokenizer?: GgufMetadata): Promise<string> {
  const path = join(folder, `${name}-${dtype}-${seed}.gguf`);
  const shape = modelShapes[name] as ModelShape;
  await synthesiseModel({ name, shape, dtype, path, seed, ...(tokenizer === undefined ? {} : { tokenizer }) });
  return path;
}

describe('a synthetic model', () => {
  it('has the tensors of its shape, in its format', async () => {
    const file = await openWeights(await synthesise('tiny-gemma3', 'Q4_1'));
    const shape = modelShapes['tiny-gemma3'] as ModelShape;
    const plans = tensorsOf(shape, 'Q4_1').map(({ name, dtype, shape: sizes }) => ({ name, dtype, shape: sizes }));
    expect([...file.tensors.values()]).toMatchObject(plans);
    file.close();
  });

  it('is the same from the same seed', async () => {
    const first = readFileSync(await synthesise('tiny-llama', 'Q8_0', 1));
    expect(readFileSync(await synthesise('tiny-llama', 'Q8_0', 1)).equals(first)).toBe(true);
    expect(readFileSync(await synthesise('tiny-llama', 'Q8_0', 2)).equals(first)).toBe(false);
  });

  it('copies a tokenizer and pads it', async () => {
    const tokenizer = new Map<string, string | number | boolean | string[] | Int32Array>([
      ['general.name', 'not copied'],
      ['tokenizer.ggml.model', 'gpt2'],
      ['tokenizer.ggml.tokens', ['a', 'b']],
      ['tokenizer.ggml.token_type', Int32Array.of(3, 1)],
      ['tokenizer.ggml.merges', ['a b']],
      ['tokenizer.ggml.eos_token_id', 1],
      ['tokenizer.ggml.add_bos_token', false],
    ]);
    const file = await openWeights(await synthesise('tiny-qwen3', 'F16', 3, tokenizer));
    if (file.kind !== 'gguf') throw new Error('expected GGUF');
    const tokens = file.metadata.get('tokenizer.ggml.tokens') as string[];
    const types = file.metadata.get('tokenizer.ggml.token_type') as Int32Array;
    expect([tokens.length, tokens[1], tokens[511]]).toEqual([512, 'b', '[PAD511]']);
    expect([types.length, types[0], types[511]]).toEqual([512, 3, 5]);
    expect(file.metadata.get('tokenizer.ggml.eos_token_id')).toBe(1);
    expect(file.metadata.get('tokenizer.ggml.add_bos_token')).toBe(false);
    expect(file.metadata.get('general.name')).toBe('Random weights in the shape of tiny-qwen3');
    file.close();
    await expect(synthesise('tiny-qwen3', 'F16', 4, new Map())).rejects.toMatchObject({ code: 'usage' });
  });

  it('loads in llama.cpp, with sane logits', async () => {
    const paths = await Promise.all([
      ...tinyNames.map((name) => synthesise(name, 'Q8_0')),
      ...dtypes.filter((dtype) => dtype !== 'Q8_0').map((dtype) => synthesise('tiny-qwen3', dtype)),
    ]);
    const child = fileURLToPath(new URL('llama-child.ts', import.meta.url));
    const output = execFileSync(process.execPath, [child, ...paths], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const lines = output
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { path: string; status: number; logits: number[] });
    expect(lines.map(({ path }) => path)).toEqual(paths);
    for (const { status, logits } of lines) {
      expect(status).toBe(0);
      const deviation = Math.sqrt(logits.reduce((sum, logit) => sum + logit ** 2, 0) / logits.length);
      expect(deviation).toBeGreaterThan(2);
      expect(deviation).toBeLessThan(4);
    }
  });
});
