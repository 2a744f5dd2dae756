// What a model's authors recommend, read from both kinds of files; nonsense is left out.
import { expect, test } from 'vitest';
import type { WeightsFile } from '../files/weights-file.ts';
import { generationDefaultsOf } from './generation-defaults.ts';

const folder = (generationConfig: Record<string, unknown> | undefined) =>
  ({ kind: 'safetensors', generationConfig }) as unknown as WeightsFile;
const gguf = (entries: readonly (readonly [string, unknown])[]) =>
  ({ kind: 'gguf', metadata: new Map(entries) }) as unknown as WeightsFile;

test('generation_config.json', () => {
  expect(generationDefaultsOf(folder({ temperature: 0.7, top_p: 0.8, top_k: 20, repetition_penalty: 1.05 }))).toEqual({
    temperature: 0.7,
    topP: 0.8,
    topK: 20,
    repetitionPenalty: 1.05,
  });
  expect(generationDefaultsOf(folder({ do_sample: false, temperature: 0.7 }))).toEqual({ temperature: 0 });
  expect(generationDefaultsOf(folder({ temperature: 'hot', top_p: -1 }))).toEqual({});
  expect(generationDefaultsOf(folder(undefined))).toEqual({});
});

test('GGUF metadata', () => {
  expect(generationDefaultsOf(gguf([['general.sampling.temp', 0.6]]))).toEqual({ temperature: 0.6 });
});
