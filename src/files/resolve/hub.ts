// Owns fetching models from the Hugging Face Hub (or a mirror of its API) into the cache, and finding them there again.
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { z } from 'zod';
import { XllmError } from '../../common/errors.ts';
import { withCacheLock } from './cache-lock.ts';
import { type DownloadSpec, downloadFile } from './download.ts';
import { httpRequest, readText } from './http-get.ts';
import { type Listing, parseListing, type RepositoryFile, selectFiles } from './repository.ts';
import type { FetchContext, ModelSettings } from './settings.ts';

/** The reply for a repository of 10,000 files is about 3 MB. */
const maxReplyBytes = 16 << 20;

const recordName = '.xllm.json';

/** Kept in each repository's folder: its last listing, and the checksum of each file that was fetched. */
const recordSchema = z.object({
  repository: z.string(),
  commit: z.string(),
  files: z.array(
    z.object({
      path: z.string(),
      numBytes: z.number(),
      checksum: z.object({ kind: z.enum(['sha256', 'git']), hex: z.string() }),
    }),
  ),
  fetched: z.record(z.string(), z.string()),
});
export type CacheRecord = z.output<typeof recordSchema>;

export function modelsFolder(settings: ModelSettings): string {
  return join(settings.cacheFolder, 'models');
}

export function repositoryFolder(settings: ModelSettings, repository: string): string {
  return join(modelsFolder(settings), repository.replace('/', '--'));
}

/** Path of the model in the cache, or undefined where not all of its files are there. */
export async function findInCache(
  settings: ModelSettings,
  repository: string,
  wanted: string | undefined,
): Promise<string | undefined> {
  const folder = repositoryFolder(settings, repository);
  const record = await readRecord(folder);
  if (record === undefined) return undefined;
  const files = selectFiles(record, wanted);
  for (const file of files) if (!(await isFetched(folder, record, file))) return undefined;
  return modelPath(folder, files);
}

/** Fetches what is missing or has changed and resolves with the model's path. Throws XllmError model_unavailable. */
export async function fetchFromHub(
  repository: string,
  wanted: string | undefined,
  context: FetchContext,
): Promise<string> {
  const { settings } = context;
  const listing = await fetchListing(repository, context);
  const files = selectFiles(listing, wanted);
  const folder = repositoryFolder(settings, repository);
  await mkdir(folder, { recursive: true });
  return withModelLock(repository.replace('/', '--'), context, async () => {
    const fetched = { ...(await readRecord(folder))?.fetched };
    for (const file of files) {
      const record: CacheRecord = { ...listing, files: [...listing.files], fetched };
      if (await isFetched(folder, record, file)) continue;
      await downloadFile(downloadSpec(settings, listing, file, join(folder, file.path)), context);
      fetched[file.path] = file.checksum.hex;
      await writeRecord(folder, record);
    }
    return modelPath(folder, files);
  });
}

/** Fetches one file of known content to `target`, unless it is there. Throws XllmError model_unavailable. */
export async function fetchPinnedFromHub(
  repository: string,
  name: string,
  sha256: string,
  target: string,
  context: FetchContext,
): Promise<void> {
  const listing = await fetchListing(repository, context);
  const [file] = selectFiles(listing, name);
  if (file?.checksum.hex !== sha256) {
    throw new XllmError('model_unavailable', `${repository}: its ${name} is not the one that is known (${sha256})`);
  }
  await withModelLock(name, context, async () => {
    const found = await stat(target).catch(() => undefined);
    if (found?.size === file.numBytes) return;
    await downloadFile(downloadSpec(context.settings, listing, file, target), context);
  });
}

function downloadSpec(settings: ModelSettings, listing: Listing, file: RepositoryFile, target: string): DownloadSpec {
  const path = file.path.split('/').map(encodeURIComponent).join('/');
  const url = `${settings.hubUrl}/${listing.repository}/resolve/${listing.commit}/${path}`;
  return { url, headers: authorization(settings), target, numBytes: file.numBytes, checksum: file.checksum };
}

function withModelLock<T>(name: string, context: FetchContext, work: () => Promise<T>): Promise<T> {
  const wait = () => {
    context.onProgress({ file: name, source: 'hub', state: 'waiting', receivedBytes: 0, totalBytes: 0 });
  };
  return withCacheLock(modelsFolder(context.settings), name, context.signal, wait, work);
}

async function fetchListing(repository: string, context: FetchContext): Promise<Listing> {
  const { settings, signal } = context;
  const url = `${settings.hubUrl}/api/models/${repository}/revision/main?blobs=true`;
  const headers = authorization(settings);
  const response = await httpRequest(url, { headers, environment: settings.environment, signal });
  if (response.statusCode !== 200) {
    response.destroy();
    throw new XllmError('model_unavailable', `${repository}: ${refusal(response, settings)}`);
  }
  try {
    return parseListing(repository, JSON.parse(await readText(response, maxReplyBytes)));
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof XllmError) throw error;
    throw new XllmError('model_unavailable', `${repository}: ${settings.hubUrl} answers: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** The Hub answers 401 for repositories that do not exist, too. */
function refusal(response: IncomingMessage, settings: ModelSettings): string {
  const hub = settings.hubUrl;
  switch (response.statusCode) {
    case 401:
    case 403:
      return settings.hubToken === undefined
        ? `there is no such repository on ${hub}, or it needs a licence to be accepted there and HF_TOKEN to be set`
        : `${hub} refuses this HF_TOKEN; accept the repository's licence there, or check the token`;
    case 404:
      return `there is no such repository on ${hub}`;
    default:
      return `${hub} answers ${response.statusCode} ${response.statusMessage ?? ''}`.trimEnd();
  }
}

function authorization(settings: ModelSettings): Record<string, string> {
  return settings.hubToken === undefined ? {} : { authorization: `Bearer ${settings.hubToken}` };
}

/** One GGUF file stands for itself and its parts; anything else for its folder. */
function modelPath(folder: string, files: readonly RepositoryFile[]): string {
  const [first] = files;
  return first?.path.endsWith('.gguf') ? join(folder, first.path) : folder;
}

async function isFetched(folder: string, record: CacheRecord, file: RepositoryFile): Promise<boolean> {
  if (record.fetched[file.path] !== file.checksum.hex) return false;
  const found = await stat(join(folder, file.path)).catch(() => undefined);
  return found?.size === file.numBytes;
}

/** Undefined where there is none, or one that cannot be read: the next fetch writes a new one. */
export async function readRecord(folder: string): Promise<CacheRecord | undefined> {
  try {
    return recordSchema.parse(JSON.parse(await readFile(join(folder, recordName), 'utf8')));
  } catch {
    return undefined;
  }
}

async function writeRecord(folder: string, record: CacheRecord): Promise<void> {
  const path = join(folder, recordName);
  await writeFile(`${path}.part`, JSON.stringify(record, undefined, 1));
  await rename(`${path}.part`, path);
}
