// Owns what the model's authors recommend for sampling: generation_config.json, or GGUF's general.sampling keys.
import { openDescription } from '../files/open-weights.ts';
import type { WeightsFile } from '../files/weights-file.ts';
import type { GenerationDefaults } from '../service/http/config.ts';

/** Field → key in generation_config.json, key in GGUF metadata (llama.cpp's gguf-py constants.py), smallest value. */
const fields: Readonly<Record<keyof GenerationDefaults, readonly [json: string, gguf: string, min: number]>> = {
  temperature: ['temperature', 'general.sampling.temp', 0],
  topP: ['top_p', 'general.sampling.top_p', 0],
  topK: ['top_k', 'general.sampling.top_k', 0],
  minP: ['min_p', 'general.sampling.min_p', 0],
  repetitionPenalty: ['repetition_penalty', 'general.sampling.penalty_repeat', 0.01],
};

/** Throws XllmError model_file_invalid. */
export async function readGenerationDefaults(modelPath: string): Promise<GenerationDefaults> {
  const file = await openDescription(modelPath);
  try {
    return generationDefaultsOf(file);
  } finally {
    file.close();
  }
}

export function generationDefaultsOf(file: WeightsFile): GenerationDefaults {
  const read = (json: string, gguf: string): unknown =>
    file.kind === 'gguf' ? file.metadata.get(gguf) : file.generationConfig?.[json];
  // transformers ignores the sampling numbers of a config that says do_sample: false.
  if (read('do_sample', '') === false) return { temperature: 0 };
  return Object.fromEntries(
    Object.entries(fields).flatMap(([field, [json, gguf, min]]) => {
      const value = read(json, gguf);
      return typeof value === 'number' && Number.isFinite(value) && value >= min ? [[field, value]] : [];
    }),
  );
}
