// Owns the models that a comparison runs: their files, and what must be known of them beyond the path.
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import type { DType } from '../../files/dtype.ts';
import type { WritableDType } from '../../files/encode-tensor.ts';
import { type ModelShape, modelShapes } from '../../files/model-shapes.ts';
import { openWeights } from '../../files/open-weights.ts';
import { withCacheLock } from '../../files/resolve/cache-lock.ts';
import { resolveModel } from '../../files/resolve/resolve-model.ts';
import { type Environment, modelSettings } from '../../files/resolve/settings.ts';
import { synthesiseModel } from '../../files/synthesise.ts';
import type { GgufFile } from '../../files/weights-file.ts';
import { type ModelWork, modelWork } from './work.ts';

export interface CompareModel {
  readonly name: string;
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
  /** Ids below this, and from 1000 on, are plain text tokens. */
  readonly vocabSize: number;
  /** Control tokens: some systems end there, others go on. */
  readonly stopIds: ReadonlySet<number>;
  /** Of most of its weights. */
  readonly matrixDType: DType;
  readonly work: ModelWork;
}

/** llama.cpp's token types (`tokenizer.ggml.token_type`). */
const NORMAL_TOKEN = 1;
const CONTROL_TOKEN = 3;

export interface FindOptions {
  readonly cache: string | undefined;
  readonly env: Environment;
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

/**
 * The model of a name, path or repository, or random weights of a synthetic shape (`qwen3-0.6b:q8_0`), which are written
 * to the cache once. Throws XllmError when it cannot be had.
 */
export async function findModel(spec: string, options: FindOptions): Promise<CompareModel> {
  const settings = modelSettings(options.env, { cacheFolder: options.cache });
  const synthetic = parseSynthetic(spec);
  if (synthetic === null) {
    const { name, path } = await resolveModel(spec, { settings, signal: options.signal });
    return inspectModel(name, path);
  }
  const folder = join(settings.cacheFolder, 'synthetic');
  const path = join(folder, `${synthetic.name}.${synthetic.dtype}.gguf`);
  mkdirSync(folder, { recursive: true });
  await withCacheLock(
    settings.cacheFolder,
    `synthetic-${synthetic.name}`,
    options.signal,
    () => {},
    async () => {
      if (existsSync(path)) return;
      options.log(`${spec}: writing random weights …`);
      const { path: source } = await resolveModel(undefined, { settings, signal: options.signal });
      const donor = await openWeights(source);
      try {
        const tokenizer = donor.kind === 'gguf' ? { tokenizer: donor.metadata } : {};
        await synthesiseModel({ ...synthetic, path, seed: 0, ...tokenizer });
      } finally {
        donor.close();
      }
    },
  );
  return inspectModel(`${spec} (random weights)`, path);
}

const SYNTHETIC_DTYPES: readonly WritableDType[] = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1'];

function parseSynthetic(spec: string): { name: string; shape: ModelShape; dtype: WritableDType } | null {
  const [name = '', dtypeText = ''] = spec.split(':');
  const dtype = SYNTHETIC_DTYPES.find((known) => known === dtypeText.toUpperCase());
  const shape = Object.hasOwn(modelShapes, name) ? modelShapes[name] : undefined;
  return shape === undefined || dtype === undefined ? null : { name, shape, dtype };
}

/** Throws XllmError `usage` when the file is no GGUF with a tokenizer. */
async function inspectModel(name: string, path: string): Promise<CompareModel> {
  const file = await openWeights(path);
  try {
    if (file.kind !== 'gguf') throw new XllmError('usage', `${path}: systems are compared on one GGUF file`);
    const { size } = await stat(path);
    const sha256 = await sha256Of(path);
    const work = await modelWork(file);
    return { name, path, bytes: size, sha256, ...tokensOf(file, path), matrixDType: matrixDType(file), work };
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

function matrixDType(file: GgufFile): DType {
  const matrices = [...file.tensors.values()].filter(({ shape }) => shape.length === 2);
  const byDType = Map.groupBy(matrices, ({ dtype }) => dtype);
  const [most] = [...byDType].sort(([, a], [, b]) => b.length - a.length);
  return most?.[0] ?? 'F32';
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const part of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(part as Buffer);
  return hash.digest('hex');
}
