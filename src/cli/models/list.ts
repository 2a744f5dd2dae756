// Owns `xllm models list`: models with a name, and what the cache holds.
import { basename } from 'node:path';
import { describeEntries, weightsFolder } from '../../engine/weights/cache/cache-folder.ts';
import { listCache } from '../../files/resolve/cache-contents.ts';
import { type CatalogueModel, catalogue } from '../../files/resolve/catalogue.ts';
import { findInCache, modelsFolder } from '../../files/resolve/hub.ts';
import { pinnedPath } from '../../files/resolve/resolve-model.ts';
import { type ModelSettings, modelSettings } from '../../files/resolve/settings.ts';
import type { BenchIo } from '../bench/io.ts';
import { formatTable } from '../bench/table.ts';
import type { ModelsOptions } from './options.ts';
import { megabytes } from './units.ts';

export async function listModels(options: ModelsOptions<'list'>, io: BenchIo): Promise<void> {
  const settings = modelSettings(io.env, { cacheFolder: options.cache });
  const cached = await listCache(settings);
  const paths = new Set(cached.map(({ path }) => path));
  const rows = await Promise.all(
    catalogue.map(async (model) => {
      const state = (await isCached(model, settings, paths)) ? 'in the cache' : model.isVerified ? '' : 'unverified';
      return [
        model.alias,
        model.parameters,
        model.licence,
        `${model.memoryMib} MiB`,
        model.repository,
        model.file,
        state,
      ];
    }),
  );
  const isStyled = io.stdout.isTTY === true;
  io.stdout.write(formatTable(['name', 'size', 'licence', 'memory', 'repository', 'file', ''], rows, isStyled));
  io.stdout.write('\nunverified: as its publisher states it; not yet tried with this program.\n');
  io.stdout.write(`\nCache: ${modelsFolder(settings)}\n`);
  if (cached.length === 0) io.stdout.write('It is empty.\n');
  else {
    const contents = cached.map(({ name, numBytes, files }) => [name, megabytes(numBytes), files.join(', ')]);
    io.stdout.write(formatTable(['model', 'size', 'files'], contents, isStyled));
  }
  listPackedWeights(weightsFolder(settings.cacheFolder), io);
}

function listPackedWeights(folder: string, io: BenchIo): void {
  const entries = describeEntries(folder);
  if (entries.length === 0) return;
  const rows = entries.toReversed().map(({ numBytes, usedMs, description }) => {
    const [first, ...others] = description?.sources ?? [];
    const more = others.length > 0 ? ` and ${others.length} more` : '';
    const model = first ? `${basename(first.path)}${more}` : 'being written, or damaged';
    return [model, megabytes(numBytes), description?.about ?? '', new Date(usedMs).toISOString().slice(0, 10)];
  });
  io.stdout.write(`\nPacked weights: ${folder}\n`);
  io.stdout.write(formatTable(['model', 'size', 'packed', 'last used'], rows, io.stdout.isTTY === true));
}

async function isCached(model: CatalogueModel, settings: ModelSettings, paths: ReadonlySet<string>): Promise<boolean> {
  if (model.pin !== undefined) return paths.has(pinnedPath(settings, model));
  // A cached listing that lacks the file means the same as no listing.
  const found = await findInCache(settings, model.repository, model.file).catch(() => undefined);
  return found !== undefined;
}
