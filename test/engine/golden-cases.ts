// Owns reading the golden outputs of tiny models; their format is described in fixtures/golden/README.md.
import { copyFileSync, mkdtempSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openSafetensorsFile } from '../../src/files/open-weights.ts';
import type { TensorFiles } from '../../src/files/weights-file.ts';

export const goldenFolder = join(import.meta.dirname, '../fixtures/golden');

export const goldenModels = [
  'llama',
  'llama3-rope',
  'llama-linear',
  'llama-yarn',
  'mistral',
  'qwen2',
  'qwen3',
  'gemma3_text',
] as const;

export interface GoldenCase {
  readonly prompt: readonly number[];
  /** [V] */
  readonly lastLogits: Float32Array;
  /** [L,5] */
  readonly top5Ids: Int32Array;
  readonly top5Logits: Float32Array;
  /** [D] of the last position, after the final norm */
  readonly lastHidden: Float32Array;
  /** [16] */
  readonly greedyIds: readonly number[];
  /** [V] of the 16th step */
  readonly greedyLastLogits: Float32Array;
}

export async function readGoldenCases(model: string): Promise<GoldenCase[]> {
  const file = openSafetensorsFile(join(goldenFolder, model, 'expected.safetensors'));
  try {
    return await Promise.all([0, 1, 2].map((n) => readCase(file, `case${n}`)));
  } finally {
    file.close();
  }
}

async function readCase(file: TensorFiles, name: string): Promise<GoldenCase> {
  const bytes = async (part: string) => {
    const info = file.tensors.get(`${name}.${part}`);
    if (!info) throw new Error(`${name}.${part} is missing`);
    const buffer = new ArrayBuffer(info.numBytes);
    await file.read(info, new Uint8Array(buffer));
    return buffer;
  };
  const hidden = new Float32Array(await bytes('hidden_last')); // [layers+1,D], the last after the final norm
  const [numStates] = file.tensors.get(`${name}.hidden_last`)?.shape ?? [1];
  return {
    lastHidden: hidden.slice(hidden.length - hidden.length / (numStates ?? 1)),
    prompt: [...new Int32Array(await bytes('input_ids'))],
    lastLogits: new Float32Array(await bytes('last_logits')),
    top5Ids: new Int32Array(await bytes('top5_ids')),
    top5Logits: new Float32Array(await bytes('top5_logits')),
    greedyIds: [...new Int32Array(await bytes('greedy_ids'))],
    greedyLastLogits: new Float32Array(await bytes('greedy_last_logits')),
  };
}

/** A temporary folder with the same weights and the config as published on the Hub. The caller removes it. */
export function hubFolder(model: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'xllm-golden-'));
  copyFileSync(join(goldenFolder, model, 'config.hub.json'), join(folder, 'config.json'));
  symlinkSync(join(goldenFolder, model, 'model.safetensors'), join(folder, 'model.safetensors'));
  return folder;
}
