// Owns the models that a comparison runs: their files, and what must be known of them beyond the path.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { XllmError } from '../../common/errors.ts';
import { openWeights } from '../../files/open-weights.ts';
import type { GgufFile } from '../../files/weights-file.ts';

export interface CompareModel {
  readonly name: string;
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
  /** Ids below this, and from 1000 on, are plain text tokens. */
  readonly vocabSize: number;
  /** Control tokens: some systems end there, others go on. */
  readonly stopIds: ReadonlySet<number>;
}

/** llama.cpp's token types (`tokenizer.ggml.token_type`). */
const NORMAL_TOKEN = 1;
const CONTROL_TOKEN = 3;

/** Throws XllmError `usage` when the file is no GGUF with a tokenizer. */
export async function inspectModel(name: string, path: string): Promise<CompareModel> {
  const file = await openWeights(path);
  try {
    if (file.kind !== 'gguf') throw new XllmError('usage', `${path}: systems are compared on one GGUF file`);
    const { size } = await stat(path);
    return { name, path, bytes: size, sha256: await sha256Of(path), ...tokensOf(file, path) };
  } finally {
    file.close();
  }
}

function tokensOf({ metadata }: GgufFile, path: string): Pick<CompareModel, 'vocabSize' | 'stopIds'> {
  const types = metadata.get('tokenizer.ggml.token_type');
  const eos = metadata.get('tokenizer.ggml.eos_token_id');
  if (!(types instanceof Int32Array)) throw new XllmError('usage', `${path} has no tokenizer.ggml.token_type`);
  const control = [...types.keys()].filter((id) => types[id] === CONTROL_TOKEN);
  return {
    vocabSize: types.lastIndexOf(NORMAL_TOKEN) + 1,
    stopIds: new Set(typeof eos === 'number' ? [...control, eos] : control),
  };
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const part of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(part as Buffer);
  return hash.digest('hex');
}
