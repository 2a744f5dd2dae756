// Owns the folder of cached weights: its secret, its files, and who may remove them. No native code: the command line uses it.
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';
import { type CacheDescription, decodeHeader } from './cache-header.ts';
import { KEY_BYTES } from './tag.ts';

const suffix = '.weights';
const partSuffix = '.weights.part';

export const weightsFolder = (cacheFolder: string): string => join(cacheFolder, 'weights');
export const entryPath = (folder: string, key: string): string => join(folder, `${key}${suffix}`);
export const partPath = (folder: string, key: string): string => join(folder, `${key}${partSuffix}`);

export interface CacheEntry {
  readonly path: string;
  readonly numBytes: number;
  readonly usedMs: number;
}

/** Whole files and those being written, least recently used first. */
export function listEntries(folder: string): CacheEntry[] {
  if (!existsSync(folder)) return [];
  const entries: CacheEntry[] = [];
  for (const name of readdirSync(folder)) {
    if (!name.endsWith(suffix) && !name.endsWith(partSuffix)) continue;
    const path = join(folder, name);
    const found = statSync(path, { throwIfNoEntry: false });
    // Files being written have no blocks yet, so what they take is what they are to hold.
    if (found) entries.push({ path, numBytes: found.size, usedMs: found.mtimeMs });
  }
  return entries.sort((a, b) => a.usedMs - b.usedMs);
}

/** Made with the folder at first use. Throws the file system's error. */
export function readSecret(folder: string): Uint8Array {
  const path = join(folder, 'secret');
  // One of another length is none; what it keyed is lost with it.
  if (statSync(path, { throwIfNoEntry: false })?.size !== KEY_BYTES) {
    rmSync(path, { force: true });
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const part = join(folder, `secret.${randomBytes(6).toString('hex')}`);
    writeFileSync(part, randomBytes(KEY_BYTES), { mode: 0o600 });
    try {
      // Whole or not at all, and of two processes the first wins.
      linkSync(part, path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    } finally {
      rmSync(part);
    }
  }
  return readFileSync(path);
}

export function readDescription(fd: number, secret: Uint8Array): CacheDescription | null {
  return decodeHeader((target, position) => readSync(fd, target, 0, target.length, position), secret);
}

export interface DescribedEntry extends CacheEntry {
  /** null: damaged, or still being written. */
  readonly description: CacheDescription | null;
}

export function describeEntries(folder: string): DescribedEntry[] {
  const entries = listEntries(folder);
  if (entries.length === 0) return [];
  const secret = readSecret(folder);
  return entries.map((entry) => {
    const fd = openSync(entry.path, 'r');
    try {
      return { ...entry, description: readDescription(fd, secret) };
    } finally {
      closeSync(fd);
    }
  });
}

/** Removes what was made from the file or folder `sourcePath`; engines that use it keep it until they end. */
export function removeEntriesOf(folder: string, sourcePath: string): number {
  // Recorded are real paths; the file itself may be gone already.
  const realPath = join(realpathSync(dirname(sourcePath)), basename(sourcePath));
  let numBytes = 0;
  for (const { path, numBytes: size, description } of describeEntries(folder)) {
    const isOf = (source: string) => source === realPath || source.startsWith(realPath + sep);
    if (!description?.sources.some((source) => isOf(source.path))) continue;
    rmSync(path, { force: true });
    numBytes += size;
  }
  return numBytes;
}
