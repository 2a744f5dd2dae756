// Owns the life of a cache file among processes: found, or written by one while others wait, and removed when old.
import {
  closeSync,
  constants,
  fstatSync,
  fsync,
  ftruncateSync,
  futimesSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { fallocateAsync, LOCK, SystemError, tryFlock } from '../../ffi/libc.ts';
import { entryPath, listEntries, partPath, readDescription } from './cache-folder.ts';
import { type CacheDescription, encodeHeader } from './cache-header.ts';

const pollMs = 50;
/** For another process that writes the same weights: minutes on a slow disk. */
const maxWaitMs = 180_000;

export type Claim =
  | { readonly kind: 'found'; readonly fd: number; readonly description: CacheDescription; readonly isSole: boolean }
  /** An empty file that no other process has open for writing; `publish` makes it the entry. */
  | { readonly kind: 'ours'; readonly fd: number }
  | { readonly kind: 'busy' };

/*
 * Whoever uses a file holds a shared lock on it, whoever writes or removes one an exclusive lock; locks end with their
 * holder, so that none can be stale. A lock counts only if the file still has its name once it is held.
 */
export async function claimEntry(folder: string, key: string, secret: Uint8Array): Promise<Claim> {
  const deadline = performance.now() + maxWaitMs;
  do {
    const found = openEntry(folder, key, secret);
    if (found) return found;
    const fd = openSync(partPath(folder, key), constants.O_RDWR | constants.O_CREAT, 0o600);
    const isOurs = tryFlock(fd, LOCK.exclusive) && isNamed(fd, partPath(folder, key));
    // Its writer may have published it between the two looks.
    if (isOurs && !statSync(entryPath(folder, key), { throwIfNoEntry: false })) {
      ftruncateSync(fd, 0);
      return { kind: 'ours', fd };
    }
    if (isOurs) rmSync(partPath(folder, key), { force: true });
    closeSync(fd);
    await sleep(pollMs);
  } while (performance.now() < deadline);
  return { kind: 'busy' };
}

function openEntry(folder: string, key: string, secret: Uint8Array): Claim | null {
  const path = entryPath(folder, key);
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  const isSole = tryFlock(fd, LOCK.exclusive);
  if (tryFlock(fd, LOCK.shared) && isNamed(fd, path)) {
    const description = readDescription(fd, secret);
    if (description?.key === key && description.fileBytes === fstatSync(fd).size) {
      markUsed(fd);
      return { kind: 'found', fd, description, isSole };
    }
    rmSync(path, { force: true });
  }
  closeSync(fd);
  return null;
}

function isNamed(fd: number, path: string): boolean {
  const [open, named] = [fstatSync(fd), statSync(path, { throwIfNoEntry: false })];
  return named?.ino === open.ino && named.dev === open.dev;
}

/** What decides which entry is the oldest. */
function markUsed(fd: number): void {
  try {
    futimesSync(fd, new Date(), new Date());
  } catch (error) {
    // A cache that somebody else keeps is read all the same.
    if (!['EROFS', 'EPERM', 'EACCES'].includes(String((error as NodeJS.ErrnoException).code))) throw error;
  }
}

/** Gives the file its size with the disk's promise to hold it. Rejects with SystemError (ENOSPC). */
export async function reserve(fd: number, numBytes: number): Promise<void> {
  try {
    await fallocateAsync(fd, 0, numBytes);
  } catch (error) {
    if (!(error instanceof SystemError) || error.errno !== 'EOPNOTSUPP') throw error;
    ftruncateSync(fd, numBytes);
  }
}

/** Makes a written file the entry, once it is safe on disk: a crash leaves it whole, or not there. */
export async function publish(
  folder: string,
  fd: number,
  description: CacheDescription,
  secret: Uint8Array,
): Promise<void> {
  const header = encodeHeader(description, secret);
  for (let done = 0; done < header.length; ) done += writeSync(fd, header, done, header.length - done, done);
  await promisify(fsync)(fd);
  markUsed(fd);
  renameSync(partPath(folder, description.key), entryPath(folder, description.key));
  tryFlock(fd, LOCK.shared);
}

/** Removes the least recently used entries that nobody uses until `numBytes` more are within the limit. */
export function makeRoom(folder: string, numBytes: number, limitBytes: number, ownPart: string): boolean {
  const entries = listEntries(folder).filter(({ path }) => path !== ownPart);
  let total = entries.reduce((sum, entry) => sum + entry.numBytes, 0);
  if (numBytes > limitBytes) return false;
  for (const entry of entries) {
    if (total + numBytes <= limitBytes) return true;
    if (removeUnused(entry.path)) total -= entry.numBytes;
  }
  return total + numBytes <= limitBytes;
}

function removeUnused(path: string): boolean {
  const fd = openSync(path, 'r');
  try {
    if (!tryFlock(fd, LOCK.exclusive)) return false;
    rmSync(path, { force: true });
    return true;
  } finally {
    closeSync(fd);
  }
}
