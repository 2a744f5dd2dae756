// Owns the tests of the `xllm models` commands, on caches of their own.
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { entryPath, readSecret, weightsFolder } from '../../engine/weights/cache/cache-folder.ts';
import { encodeHeader, layOutCacheFile } from '../../engine/weights/cache/cache-header.ts';
import { layOutGguf, type WritableValue } from '../../files/gguf-writer.ts';
import { openWeights } from '../../files/open-weights.ts';
import { defaultModel } from '../../files/resolve/catalogue.ts';
import { modelsCommands } from './commands.ts';
import { inspectModel } from './inspect.ts';
import { listModels } from './list.ts';
import { pullModel, removeModel } from './pull.ts';
import { synthModel } from './synth.ts';

const folder = mkdtempSync(join(tmpdir(), 'xllm-models-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let output = '';
const io = {
  stdout: {
    write: (text: string) => {
      output += text;
    },
  },
  stderr: { write: () => {} },
  signal: new AbortController().signal,
  env: { XLLM_CACHE: folder, XLLM_OFFLINE: '1' },
};
const printed = async (command: Promise<void>) => {
  output = '';
  await command;
  return output;
};
const synth = { type: 'q4_1', seed: 0, offline: false } as const;

describe('xllm models', () => {
  it('has its five commands', () => {
    expect(modelsCommands.map(({ name }) => name)).toEqual(['list', 'pull', 'inspect', 'rm', 'synth']);
  });

  it('list says what has a name and what is there', async () => {
    const empty = await printed(listModels({}, io));
    expect(empty).toMatch(/smollm2-135m-instruct +135M +Apache-2\.0 +400 MiB +QuantFactory.*\.gguf\n/);
    expect(empty).toMatch(/qwen3-0\.6b .*unverified\n/);
    expect(empty).toContain('It is empty.');
    mkdirSync(join(folder, 'models'));
    writeFileSync(join(folder, 'models', defaultModel.file), 'x'.repeat(1_500));
    const filled = await printed(listModels({}, io));
    expect(filled).toMatch(/smollm2-135m-instruct .*in the cache\n/);
    expect(filled).toMatch(/SmolLM2-135M-Instruct\.Q4_1\.gguf +1\.5 kB/);
  });

  it('list shows packed weights', async () => {
    const weights = weightsFolder(folder);
    const secret = readSecret(weights);
    const description = layOutCacheFile({
      key: 'key',
      sources: [{ path: realpathSync(join(folder, 'models', defaultModel.file)), numBytes: 1_500 }],
      about: 'Q4_1, Q8_0',
      numBytes: 1,
      extents: [],
    });
    const file = Buffer.alloc(1 << 20);
    encodeHeader({ ...description, tags: '' }, secret).copy(file);
    writeFileSync(entryPath(weights, 'key'), file);
    writeFileSync(entryPath(weights, 'other'), 'damaged');
    const listed = await printed(listModels({}, io));
    expect(listed).toMatch(/SmolLM2-135M-Instruct\.Q4_1\.gguf +1\.0 MB +Q4_1, Q8_0 +20\d\d-/);
    expect(listed).toMatch(/being written, or damaged +0\.0 kB/);
  });

  it('rm removes it, and what was packed from it', async () => {
    expect(await printed(removeModel({}, defaultModel.alias, io))).toContain('1.1 MB are free again');
    expect(readdirSync(weightsFolder(folder)).sort()).toEqual(['other.weights', 'secret']);
    await expect(removeModel({}, defaultModel.alias, io)).rejects.toMatchObject({ code: 'model_unavailable' });
  });

  it('pull fails clearly without a network', async () => {
    await expect(pullModel({ offline: false }, 'qwen3-0.6b', io)).rejects.toThrow('offline mode is on');
  });

  it('synth writes and inspect shows', async () => {
    const path = join(folder, 'tiny.gguf');
    const command = synthModel({ ...synth, out: path, tokenizer: 'none' }, 'tiny-qwen3', io);
    expect(await printed(command)).toBe(`${path}\n`);
    const file = await openWeights(path);
    expect(file.tensors.get('blk.0.attn_q.weight')?.dtype).toBe('Q4_1');
    file.close();
    const shown = await printed(inspectModel({ tensors: true }, path, io));
    expect(shown).toMatch(/architecture +qwen3/);
    // 2 layers, 2 heads of 32, K and V, 2 bytes.
    expect(shown).toMatch(/KV cache in F16 +0\.5 KiB per token/);
    expect(shown).toMatch(/Q4_1 +15 /);
    expect(shown).toMatch(/qwen3\.block_count +2/);
    expect(shown).toMatch(/token_embd\.weight +Q4_1 +512 x 64/);
  });

  it('synth refuses a shape that there is not', async () => {
    await expect(synthModel(synth, 'qwen3-0.6', io)).rejects.toThrow('Did you mean qwen3-0.6b?');
    await expect(synthModel({ ...synth, tokenizer: './none.gguf' }, 'tiny-llama', io)).rejects.toThrow('none.gguf');
  });

  it('inspect shows every kind of value, briefly', async () => {
    const path = join(folder, 'values.gguf');
    const metadata = new Map<string, WritableValue>([
      ['a', 'line\nbreak'.repeat(30)],
      ['b', [1, 2n ** 60n]],
      ['c', new Int32Array(100)],
      ['d', ['x', 'y']],
    ]);
    writeFileSync(path, layOutGguf(metadata, []).header);
    const shown = await printed(inspectModel({ tensors: false }, path, io));
    expect(shown).toMatch(/^a +line\\nbreak.* … \(\d+ characters\)$/m);
    expect(shown).toMatch(/^b +\[1,"1152921504606846976"\]$/m);
    expect(shown).toMatch(/^c +100 values: \[0,0,0,0,0,0,0,0\]$/m);
    expect(shown).toMatch(/^d +\["x","y"\]$/m);
  });
});
