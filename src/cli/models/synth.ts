// Owns `xllm models synth`: a GGUF file of random weights, to measure with.
import { resolve } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import type { WritableDType } from '../../files/encode-tensor.ts';
import { modelShapes } from '../../files/model-shapes.ts';
import { openWeights } from '../../files/open-weights.ts';
import { resolveModel } from '../../files/resolve/resolve-model.ts';
import { modelSettings } from '../../files/resolve/settings.ts';
import { synthesiseModel } from '../../files/synthesise.ts';
import type { GgufMetadata } from '../../files/weights-file.ts';
import type { BenchIo } from '../bench/io.ts';
import { didYouMean } from '../config/nearest.ts';
import { createProgressBar } from '../progress.ts';
import { type ModelsOptions, shapeNames } from './options.ts';

/** Prints the path. Throws XllmError usage for an unknown shape or a tokenizer that is not in a GGUF file. */
export async function synthModel(options: ModelsOptions<'synth'>, name: string, io: BenchIo): Promise<void> {
  const shape = Object.hasOwn(modelShapes, name) ? modelShapes[name] : undefined;
  if (shape === undefined) {
    throw new XllmError('usage', `no shape ${name}.${didYouMean(name, shapeNames)} Shapes: ${shapeNames.join(', ')}`);
  }
  const dtype = options.type.toUpperCase() as WritableDType;
  const path = resolve(options.out ?? `${name}-${dtype}.gguf`);
  const tokenizer = options.tokenizer === 'none' ? {} : { tokenizer: await readTokenizer(options, io) };
  const show = progressLine(io);
  await synthesiseModel({ name, shape, dtype, path, seed: options.seed, ...tokenizer, onProgress: show });
  if (io.stderr.isTTY) io.stderr.write('\r\x1b[K');
  io.stdout.write(`${path}\n`);
}

async function readTokenizer(options: ModelsOptions<'synth'>, io: BenchIo): Promise<GgufMetadata> {
  const settings = modelSettings(io.env, { cacheFolder: options.cache, isOffline: options.offline });
  const bar = createProgressBar(io.stderr);
  const { path } = await resolveModel(options.tokenizer, { settings, onProgress: bar.show, signal: io.signal }).finally(
    bar.end,
  );
  const file = await openWeights(path);
  try {
    if (file.kind !== 'gguf') throw new XllmError('usage', `${path}: tokenizers are copied from GGUF files only`);
    return file.metadata;
  } finally {
    file.close();
  }
}

/** One line, redrawn per percent, in a terminal only; also where Ctrl-C takes effect. */
function progressLine(io: BenchIo): (writtenBytes: number, totalBytes: number) => void {
  let shownPercent = -1;
  return (writtenBytes, totalBytes) => {
    io.signal.throwIfAborted();
    const percent = Math.floor((100 * writtenBytes) / totalBytes);
    if (percent === shownPercent || !io.stderr.isTTY) return;
    shownPercent = percent;
    io.stderr.write(`\r\x1b[Kwriting random weights: ${percent} % of ${(totalBytes / 1e6).toFixed(0)} MB`);
  };
}
