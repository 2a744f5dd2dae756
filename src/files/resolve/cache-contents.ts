// Owns what is in the model cache: listing it and taking models out of it.
import { existsSync } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import { withCacheLock } from './cache-lock.ts';
import { modelsFolder, readRecord, repositoryFolder } from './hub.ts';
import { parseModelSpec, pinnedPath } from './resolve-model.ts';
import type { ModelSettings } from './settings.ts';

export interface CachedModel {
  /** Repository, or the name of a file that lies by itself. */
  readonly name: string;
  readonly path: string;
  readonly numBytes: number;
  /** Complete files, relative to `path`; empty for a file that lies by itself. */
  readonly files: readonly string[];
}

/** Repositories with at least one complete file, and files that lie by themselves. */
export async function listCache(settings: ModelSettings): Promise<readonly CachedModel[]> {
  const folder = modelsFolder(settings);
  if (!existsSync(folder)) return [];
  const models: CachedModel[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isFile() && entry.name.endsWith('.gguf')) {
      models.push({ name: entry.name, path, numBytes: (await stat(path)).size, files: [] });
    } else if (entry.isDirectory()) {
      const record = await readRecord(path);
      if (record !== undefined)
        models.push(await repositoryEntry(record.repository, path, Object.keys(record.fetched)));
    }
  }
  return models;
}

async function repositoryEntry(name: string, path: string, names: readonly string[]): Promise<CachedModel> {
  const files: string[] = [];
  let numBytes = 0;
  for (const file of names) {
    const found = await stat(join(path, file)).catch(() => undefined);
    if (found === undefined) continue;
    files.push(file);
    numBytes += found.size;
  }
  return { name, path, numBytes, files };
}

export interface Removed {
  /** Where it was: a file, or a folder with all that was in it. */
  readonly path: string;
  readonly numBytes: number;
}

/**
 * Removes a model (alias, or repository with all its files) and what an interrupted download left of it. Throws XllmError usage for a path, model_unavailable where the cache does not have it.
 */
export async function removeFromCache(settings: ModelSettings, spec: string, signal: AbortSignal): Promise<Removed> {
  const parsed = parseModelSpec(spec);
  if (parsed.kind === 'path') throw new XllmError('usage', `${spec} is a path: only models in the cache are removed`);
  const isPinned = parsed.kind === 'alias' && parsed.model.pin !== undefined;
  const repository = parsed.kind === 'alias' ? parsed.model.repository : parsed.repository;
  const path = isPinned ? pinnedPath(settings, parsed.model) : repositoryFolder(settings, repository);
  const folder = modelsFolder(settings);
  if (!existsSync(folder)) throw absent(spec, folder);
  return withCacheLock(
    folder,
    basename(path),
    signal,
    () => {},
    async () => {
      const doomed = (await readdir(folder)).filter(
        (name) => name === basename(path) || (name.startsWith(`${basename(path)}.`) && name.endsWith('.part')),
      );
      if (doomed.length === 0) throw absent(spec, folder);
      let numBytes = 0;
      for (const name of doomed) {
        numBytes += await bytesBelow(join(folder, name));
        await rm(join(folder, name), { recursive: true });
      }
      return { path, numBytes };
    },
  );
}

function absent(spec: string, folder: string): XllmError {
  return new XllmError('model_unavailable', `${spec} is not in ${folder}`);
}

async function bytesBelow(path: string): Promise<number> {
  const found = await stat(path);
  if (!found.isDirectory()) return found.size;
  let numBytes = 0;
  for (const name of await readdir(path)) numBytes += await bytesBelow(join(path, name));
  return numBytes;
}
