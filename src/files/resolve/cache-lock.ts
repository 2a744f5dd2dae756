// Owns mutual exclusion between processes that fetch the same model.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { XllmError } from '../../common/errors.ts';

const pollMs = 200;
/** SQLITE_BUSY of sqlite3.h. */
const busy = 5;

/**
 * Runs `work` while no other process, nor another call here, holds the lock `name`; `onWait` is told once if it must
 * wait. The lock is the kernel's, through SQLite: it ends with its holder, so that it can never be stale. Its empty
 * file stays, since removing it would let two processes lock two files of one name.
 */
export async function withCacheLock<T>(
  folder: string,
  name: string,
  signal: AbortSignal,
  onWait: () => void,
  work: () => Promise<T>,
): Promise<T> {
  const database = openLock(folder, name);
  try {
    for (let numAttempts = 0; !tryLock(database, folder); numAttempts++) {
      if (numAttempts === 0) onWait();
      await sleep(pollMs, undefined, { signal });
    }
    return await work();
  } finally {
    // Closing rolls back and so unlocks.
    database.close();
  }
}

function openLock(folder: string, name: string): DatabaseSync {
  const locks = join(folder, '.locks');
  try {
    mkdirSync(locks, { recursive: true });
    return new DatabaseSync(join(locks, `${name}.lock`), { timeout: 0 });
  } catch (error) {
    throw cannotLock(folder, error);
  }
}

function tryLock(database: DatabaseSync, folder: string): boolean {
  try {
    database.exec('BEGIN EXCLUSIVE');
    return true;
  } catch (error) {
    if ((error as { errcode?: number }).errcode === busy) return false;
    throw cannotLock(folder, error);
  }
}

function cannotLock(folder: string, error: unknown): XllmError {
  const hint = 'choose a folder that can be written with XLLM_CACHE';
  return new XllmError('model_unavailable', `${folder}: cannot be locked: ${(error as Error).message}; ${hint}`, {
    cause: error,
  });
}
