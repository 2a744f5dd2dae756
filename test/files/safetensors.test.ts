// Owns the tests of reading safetensors: single files, shards, model folders, and a fault for each thing that can be wrong.
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openSafetensorsFile, openWeights } from '../../src/files/open-weights.ts';
import type { WeightsFile } from '../../src/files/weights-file.ts';
import { ggufBytes, safetensorsBytes, sampleSafetensors } from './sample-files.ts';
import { putFile, useTempFolder } from './temp-folder.ts';

const folder = useTempFolder('safetensors');
let numFolders = 0;

/** A new folder with these files in it. */
function modelFolder(files: Readonly<Record<string, Uint8Array | string>>): string {
  const path = join(folder, `m${numFolders++}`);
  mkdirSync(path);
  for (const [name, content] of Object.entries(files)) putFile(path, name, content);
  return path;
}

const config = JSON.stringify({ architectures: ['LlamaForCausalLM'], hidden_size: 8 });
const oneTensor = (name: string) => safetensorsBytes({ [name]: { dtype: 'F32', shape: [2], data_offsets: [0, 8] } }, 8);

function faultOfHeader(header: string | Record<string, object>, numDataBytes = 8): string {
  const path = putFile(folder, 'wrong.safetensors', safetensorsBytes(header, numDataBytes));
  try {
    openSafetensorsFile(path).close();
  } catch (error) {
    expect(error).toMatchObject({ code: 'model_file_invalid' });
    return (error as Error).message;
  }
  return 'opened';
}

function safetensors(file: WeightsFile) {
  if (file.kind !== 'safetensors') throw new Error('expected safetensors');
  return file;
}

describe('a safetensors file', () => {
  it('gives tensors and data, without a config.json too', async () => {
    const file = openSafetensorsFile(putFile(folder, 'plain.safetensors', sampleSafetensors()));
    expect(
      [...file.tensors.values()].map(({ name, dtype, shape, numBytes }) => [name, dtype, shape, numBytes]),
    ).toEqual([
      ['model.embed_tokens.weight', 'BF16', [4, 8], 64],
      ['model.norm.weight', 'F32', [8], 32],
      ['ids', 'I64', [2], 16],
      ['scalar', 'F16', [], 2],
    ]);
    const data = new Uint8Array(2);
    await file.read('scalar', data);
    expect([...data]).toEqual([112, 113]);
    file.close();
  });

  it('opens as a model with the configs beside it, from its folder or by its name', async () => {
    const path = modelFolder({
      'model.safetensors': sampleSafetensors(),
      'other.safetensors': sampleSafetensors(),
      'config.json': config,
      'generation_config.json': '{"eos_token_id": [1, 2]}',
    });
    for (const name of [path, join(path, 'model.safetensors')]) {
      const file = safetensors(await openWeights(name));
      expect(file.folder).toBe(path);
      expect(file.config['hidden_size']).toBe(8);
      expect(file.generationConfig).toEqual({ eos_token_id: [1, 2] });
      file.close();
    }
  });

  it('is no model without a config.json', async () => {
    const path = modelFolder({ 'model.safetensors': sampleSafetensors() });
    await expect(openWeights(path)).rejects.toThrow('there is no config.json beside it');
  });
});

describe('a sharded set', () => {
  const index = (weightMap: object) => JSON.stringify({ metadata: {}, weight_map: weightMap });
  const files = {
    'config.json': config,
    '1.safetensors': oneTensor('a'),
    '2.safetensors': oneTensor('b'),
  };

  it('gives the tensors of all shards', async () => {
    const weightMap = { a: '1.safetensors', b: '2.safetensors' };
    const file = safetensors(
      await openWeights(modelFolder({ ...files, 'model.safetensors.index.json': index(weightMap) })),
    );
    expect([...file.tensors.values()].map((t) => [t.name, t.fileIndex])).toEqual([
      ['a', 0],
      ['b', 1],
    ]);
    file.close();
  });

  it.each([
    [{ a: '../1.safetensors' }, 'no .safetensors file of its folder'],
    [{ a: '/etc/1.safetensors' }, 'no .safetensors file of its folder'],
    [{ a: '..\\1.safetensors' }, 'no .safetensors file of its folder'],
    [{ a: 'config.json' }, 'no .safetensors file of its folder'],
    [{ a: 7 }, 'no .safetensors file of its folder'],
    [{ c: '1.safetensors' }, 'lacks c'],
    [{ a: '3.safetensors' }, 'cannot be opened'],
    [Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`t${i}`, `${i}.safetensors`])), 'at most 1000'],
  ])('refuses the index, case %#', async (weightMap, message) => {
    const path = modelFolder({ ...files, 'model.safetensors.index.json': index(weightMap) });
    await expect(openWeights(path)).rejects.toThrow(message);
    rmSync(path, { recursive: true });
  });
});

describe('a model folder', () => {
  it('may hold one GGUF file', async () => {
    const file = await openWeights(modelFolder({ 'm.gguf': ggufBytes([], []), 'README.md': '' }));
    expect(file.kind).toBe('gguf');
    file.close();
  });

  it('says what it holds when that is not one model', async () => {
    const two = modelFolder({ 'a.gguf': ggufBytes([], []), 'b.gguf': ggufBytes([], []) });
    await expect(openWeights(two)).rejects.toThrow('name one of: a.gguf, b.gguf');
    await expect(openWeights(modelFolder({}))).rejects.toThrow('neither .safetensors nor .gguf');
  });
});

describe('a wrong safetensors file', () => {
  const entry = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };

  it('is refused wherever it is cut', () => {
    const bytes = sampleSafetensors();
    for (let length = 0; length < bytes.length; length++) {
      const path = putFile(folder, 'cut.safetensors', bytes.subarray(0, length));
      expect(() => openSafetensorsFile(path)).toThrow(/cut\.safetensors: .*\(at byte \d+\)/);
    }
  });

  it('is refused for a header of 2^60 bytes', () => {
    const bytes = Buffer.from(BigUint64Array.of(2n ** 60n).buffer);
    const path = putFile(folder, 'huge.safetensors', bytes);
    expect(() => openSafetensorsFile(path)).toThrow('states a header of 1152921504606846976 bytes');
  });

  it.each([
    [{ a: { ...entry, dtype: 'F4' } }, 'the format "F4"'],
    [{ a: { ...entry, dtype: 'Q4_0' } }, 'the format "Q4_0"'],
    [{ a: { ...entry, dtype: '__proto__' } }, 'the format "__proto__"'],
    [{ a: { ...entry, shape: [-2] } }, 'malformed shape'],
    [{ a: { ...entry, shape: [1.5] } }, 'malformed shape'],
    [{ a: { ...entry, shape: [2 ** 30, 2 ** 30] } }, 'impossible shape'],
    [{ a: { ...entry, shape: Array(9).fill(1) } }, 'malformed shape'],
    [{ a: { ...entry, data_offsets: [0] } }, 'malformed data_offsets'],
    [{ a: { ...entry, data_offsets: [8, 0] } }, 'spans -8 bytes'],
    [{ a: { ...entry, data_offsets: [4, 12] } }, 'is it truncated?'],
    [{ a: { ...entry, data_offsets: [2 ** 50, 2 ** 50 + 8] } }, 'is it truncated?'],
    [{ a: entry, b: entry }, 'a and b overlap'],
    [{ a: [1] }, 'is not an object'],
    ['[]', 'not an object'],
    ['{"a": tru}', 'not valid JSON'],
    ['{"a": "\\ud800\\q"}', 'not valid JSON'],
    [`{"a": ${'['.repeat(100_000)}}`, 'nests deeper than 8'],
    [`{"a": [${'[],'.repeat(5_000_000)}1]}`, 'holds more than 4194304 values'],
    [`{"a": ${JSON.stringify(entry)}, "\\u0061": ${JSON.stringify(entry)}}`, 'has the name a twice'],
  ] as [string | Record<string, object>, string][])('is refused, case %#', (header, message) => {
    expect(faultOfHeader(header)).toContain(message);
  });

  it('may hold tensors without elements', () => {
    expect(faultOfHeader({ a: entry, none: { dtype: 'F32', shape: [0, 4], data_offsets: [4, 4] } })).toBe('opened');
  });

  it('is refused for a config.json that is no object', async () => {
    const path = modelFolder({ 'model.safetensors': sampleSafetensors(), 'config.json': '[1]' });
    await expect(openWeights(path)).rejects.toThrow('config.json: holds JSON that is not an object');
  });
});
