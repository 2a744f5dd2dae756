// Owns `xllm models pull` and `xllm models rm`: models into the cache and out of it.
import { removeEntriesOf, weightsFolder } from '../../engine/weights/cache/cache-folder.ts';
import { removeFromCache } from '../../files/resolve/cache-contents.ts';
import { resolveModel } from '../../files/resolve/resolve-model.ts';
import { modelSettings } from '../../files/resolve/settings.ts';
import type { BenchIo } from '../bench/io.ts';
import { createProgressBar } from '../progress.ts';
import type { ModelsOptions } from './options.ts';
import { megabytes } from './units.ts';

/** Fetches what is missing or has changed; prints the path. Throws XllmError model_unavailable. */
export async function pullModel(options: ModelsOptions<'pull'>, spec: string | undefined, io: BenchIo): Promise<void> {
  const settings = modelSettings(io.env, { cacheFolder: options.cache, isOffline: options.offline });
  const bar = createProgressBar(io.stderr);
  try {
    const { path } = await resolveModel(spec, { settings, onProgress: bar.show, signal: io.signal, isRefresh: true });
    bar.end();
    io.stdout.write(`${path}\n`);
  } catch (error) {
    bar.end();
    throw error;
  }
}

/** Packed weights go with their model. Throws XllmError model_unavailable for what the cache does not have, usage for a path. */
export async function removeModel(options: ModelsOptions<'rm'>, spec: string, io: BenchIo): Promise<void> {
  const settings = modelSettings(io.env, { cacheFolder: options.cache });
  const { path, numBytes: modelBytes } = await removeFromCache(settings, spec, io.signal);
  const numBytes = modelBytes + removeEntriesOf(weightsFolder(settings.cacheFolder), path);
  io.stdout.write(`Removed ${spec}: ${megabytes(numBytes)} are free again.\n`);
}
