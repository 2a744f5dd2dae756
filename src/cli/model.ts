// Owns how commands find their model: the resolver with this program's settings, a progress bar and Ctrl-C.
import { type ResolvedModel, resolveModel } from '../files/resolve/resolve-model.ts';
import { modelSettings } from '../files/resolve/settings.ts';
import { timedModelFolder } from '../engine/step/timed-profile.ts';
import { createProgressBar } from './progress.ts';

const TIMED_MODEL = 'timed';

export interface ModelOptions {
  readonly cache?: string | undefined;
  readonly offline: boolean;
  readonly device?: 'cpu' | 'timed';
}

/**
 * The name `timed`, and under `--device timed` no name at all, is the built-in description: token ids in and out, no
 * text. Throws XllmError model_unavailable.
 */
export async function findModel(spec: string | undefined, options: ModelOptions): Promise<ResolvedModel> {
  if (spec === TIMED_MODEL || (spec === undefined && options.device === 'timed')) {
    return { name: TIMED_MODEL, path: timedModelFolder, source: 'path' };
  }
  const settings = modelSettings(process.env, { cacheFolder: options.cache, isOffline: options.offline });
  const bar = createProgressBar(process.stderr);
  const abort = new AbortController();
  const onInterrupt = () => abort.abort();
  process.once('SIGINT', onInterrupt);
  try {
    return await resolveModel(spec, { settings, onProgress: bar.show, signal: abort.signal });
  } catch (error) {
    // What has been received stays in the cache, and the next start goes on from there.
    if (abort.signal.aborted) process.exit(130);
    throw error;
  } finally {
    bar.end();
    process.off('SIGINT', onInterrupt);
  }
}
