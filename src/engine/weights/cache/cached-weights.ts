// Owns weights by way of the cache: found there and checked, or prepared into a new file of it.
import { closeSync, realpathSync, rmSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import type { OpenFile } from '../../../files/weights-file.ts';
import type { FileChunk, PieceTarget } from '../prepare-messages.ts';
import type { WeightPlan, WeightRequest } from '../weight-plan.ts';
import { claimEntry, makeRoom, publish, reserve } from './cache-file.ts';
import { entryPath, partPath, readSecret, weightsFolder } from './cache-folder.ts';
import { type CacheDescription, layOutCacheFile } from './cache-header.ts';
import { cacheKey } from './cache-key.ts';
import { fileDigests, identities } from './file-digest.ts';
import {
  DamagedFile,
  mapWeights,
  type PlacedWeights,
  type PlaceOptions,
  readIntoMemory,
  type WeightsMemory,
} from './place-weights.ts';
import { TAG_BYTES, tagOf } from './tag.ts';

export interface WeightCacheOptions {
  /** The product's cache folder. */
  readonly folder: string;
  /** Of all cache files; 0: nothing is cached. */
  readonly limitBytes: number;
  readonly memory: WeightsMemory;
}

export interface CacheTools {
  /** Both resolve with the tags of their items. */
  readonly digestChunks: (chunks: readonly FileChunk[], secret: Uint8Array) => Promise<Buffer>;
  readonly preparePieces: (target: PieceTarget, secret: Uint8Array) => Promise<Buffer>;
  readonly onWarning: (text: string) => void;
}

export interface CachedWeights {
  readonly placed: PlacedWeights;
  readonly source: 'cache' | 'file';
  /** Resolves when a new file is part of the cache, or has failed to become that. */
  readonly published: Promise<void>;
  /** The memory must not be used any more. */
  readonly close: () => void;
}

/** What is worth a look at the disk: less is packed at once. */
export const minCachedBytes = 16 << 20;

/**
 * null: not through the cache, for the reason given as a warning. Rejects with SystemError, TargetUnwritable or the file
 * system's error where the cache cannot be used, with XllmError where the model's files cannot.
 */
export async function loadThroughCache(
  files: readonly OpenFile[],
  requests: readonly WeightRequest[],
  plan: WeightPlan,
  options: WeightCacheOptions,
  tools: CacheTools,
): Promise<CachedWeights | null> {
  const folder = weightsFolder(options.folder);
  const secret = readSecret(folder);
  const before = identities(files);
  const digests = await fileDigests(files, folder, (chunks) => tools.digestChunks(chunks, secret));
  const key = cacheKey(digests, requests);
  for (;;) {
    const claim = await claimEntry(folder, key, secret);
    if (claim.kind === 'busy') {
      tools.onWarning('weights are not cached: another process has been writing them for minutes');
      return null;
    }
    if (claim.kind === 'found') {
      const { fd, description, isSole } = claim;
      const found = await openFound({ ...placeOf(description, options), fd, isSole }, description, secret);
      if (found) return { ...found, source: 'cache', published: Promise.resolve() };
      tools.onWarning(`${entryPath(folder, key)} is damaged; it is made again`);
      rmSync(entryPath(folder, key), { force: true });
      continue;
    }
    const isUntouched = () => identities(files).join() === before.join();
    const description = layOutCacheFile({
      key,
      sources: files.map(({ path, numBytes }) => ({ path: realpathSync(path), numBytes })),
      about: formatsOf(requests),
      numBytes: plan.numBytes,
      extents: plan.pieces.flatMap(({ offset, numBytes }) => [offset, numBytes]),
    });
    return await writeNew({ folder, fd: claim.fd, description, secret, options, tools, isUntouched });
  }
}

const placeOf = ({ dataOffset, numBytes }: Omit<CacheDescription, 'tags'>, { memory }: WeightCacheOptions) => ({
  offset: dataOffset,
  numBytes,
  wanted: memory,
});

function formatsOf(requests: readonly WeightRequest[]): string {
  const specs = requests.flatMap(({ packing }) => (packing ? [packing.spec] : []));
  const formats = [...new Set(specs.map(({ format }) => format))].sort();
  return formats.join(', ');
}

/** null: what is in the file is not what was written, or cannot be read; the file is closed then. */
async function openFound(
  place: PlaceOptions,
  description: CacheDescription,
  secret: Uint8Array,
): Promise<Pick<CachedWeights, 'placed' | 'close'> | null> {
  let placed: PlacedWeights | null = null;
  try {
    placed = await placeWeights(place);
    if (await isSound(placed.memory.buffer, description, secret)) return { placed, close: closer(placed, place.fd) };
  } catch (error) {
    if (!(error instanceof DamagedFile)) {
      closeSync(place.fd);
      throw error;
    }
  }
  placed?.memory.free();
  closeSync(place.fd);
  return null;
}

async function placeWeights(place: PlaceOptions): Promise<PlacedWeights> {
  const mapped = await mapWeights(place);
  return typeof mapped === 'string' ? await readIntoMemory(place, mapped) : mapped;
}

/** Bytes checked in one go of the event loop, which must answer signals. */
const checkBytes = 256 << 20;

async function isSound(buffer: ArrayBuffer, description: CacheDescription, secret: Uint8Array): Promise<boolean> {
  const { extents } = description;
  const expected = Buffer.from(description.tags, 'base64');
  let numBytes = 0;
  for (let i = 0; 2 * i < extents.length; i++) {
    const bytes = new Uint8Array(buffer, extents[2 * i], extents[2 * i + 1]);
    if (!tagOf(secret, bytes).equals(expected.subarray(i * TAG_BYTES, (i + 1) * TAG_BYTES))) return false;
    numBytes += bytes.length;
    if (numBytes < checkBytes) continue;
    numBytes = 0;
    await setImmediate();
  }
  return true;
}

function closer({ memory }: PlacedWeights, fd: number): () => void {
  return () => {
    memory.free();
    // Others now see that this process does not use the file any more.
    closeSync(fd);
  };
}

interface NewFile {
  readonly folder: string;
  readonly fd: number;
  readonly description: Omit<CacheDescription, 'tags'>;
  readonly secret: Uint8Array;
  readonly options: WeightCacheOptions;
  readonly tools: CacheTools;
  /** Whether the model's files are still those whose digests are in the key. */
  readonly isUntouched: () => boolean;
}

async function writeNew(file: NewFile): Promise<CachedWeights | null> {
  const { folder, fd, description, secret, options, tools, isUntouched } = file;
  const part = partPath(folder, description.key);
  const place: PlaceOptions = { ...placeOf(description, options), fd, isSole: true };
  let placed: PlacedWeights | null = null;
  try {
    if (!makeRoom(folder, description.fileBytes, options.limitBytes, part)) {
      const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
      const [needed, limit] = [megabytes(description.fileBytes), megabytes(options.limitBytes)];
      tools.onWarning(`weights are not cached: ${needed} do not fit into ${limit} (--weights-cache-limit)`);
      rmSync(part, { force: true });
      closeSync(fd);
      return null;
    }
    await reserve(fd, description.fileBytes);
    // Mapped first: what is then written goes to the large pages that mapping has brought into the page cache.
    const mapped = await mapWeights(place);
    if (typeof mapped !== 'string') placed = mapped;
    const tags = await tools.preparePieces({ kind: 'file', fd, start: description.dataOffset }, secret);
    const weights = typeof mapped === 'string' ? await readIntoMemory(place, mapped) : mapped;
    placed = weights;
    const done = isUntouched()
      ? publish(folder, fd, { ...description, tags: tags.toString('base64') }, secret)
      : Promise.reject(new Error("the model's files changed while they were read"));
    const published = done.catch((error: unknown) => {
      tools.onWarning(`weights are not cached: ${(error as Error).message}`);
      rmSync(part, { force: true });
    });
    const close = closer(weights, fd);
    return { placed: weights, source: 'file', published, close: () => void published.then(close) };
  } catch (error) {
    placed?.memory.free();
    rmSync(part, { force: true });
    closeSync(fd);
    throw error;
  }
}
