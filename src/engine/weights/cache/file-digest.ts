// Owns telling model files apart by content: a digest of every byte, remembered while a file is provably untouched.
import { createHash, randomBytes } from 'node:crypto';
import { fstatSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { OpenFile } from '../../../files/weights-file.ts';
import type { FileChunk } from '../prepare-messages.ts';
import { TAG_BYTES } from './tag.ts';

const chunkBytes = 1 << 20;
const maxRemembered = 1_000;
/** A change within one tick of the file system's clock leaves no trace; ticks are milliseconds, or seconds where old. */
const settledMs = 2_500;

/** Resolves with the tags of all chunks, one behind the other. */
export type DigestChunks = (chunks: readonly FileChunk[]) => Promise<Buffer>;

/*
 * Remembered by device, inode, size, modification and change time. Programs may set the modification time back, but
 * nobody sets the change time: the system does, at every write. A file that changed a moment ago is not remembered,
 * since another change may bear the same time (as git treats its index).
 */
export async function fileDigests(
  files: readonly OpenFile[],
  folder: string,
  digestChunks: DigestChunks,
  nowMs: () => number = Date.now,
): Promise<string[]> {
  const memo = readMemo(folder);
  const before = files.map(({ fd }) => identify(fd));
  const unknown = files.flatMap((file, fileIndex) =>
    memo.has(before[fileIndex]?.identity ?? '') ? [] : chunksOf(file, fileIndex),
  );
  if (unknown.length === 0) return before.map(({ identity }) => memo.get(identity) ?? '');
  const startMs = nowMs();
  const tags = await digestChunks(unknown);
  const digests = files.map((file, fileIndex) => {
    const known = memo.get(before[fileIndex]?.identity ?? '');
    if (known !== undefined) return known;
    const hash = createHash('sha256').update(String(file.numBytes));
    for (const [i, chunk] of unknown.entries()) {
      if (chunk.fileIndex === fileIndex) hash.update(tags.subarray(i * TAG_BYTES, (i + 1) * TAG_BYTES));
    }
    return hash.digest('hex');
  });
  for (const [fileIndex, { fd }] of files.entries()) {
    const found = before[fileIndex];
    const digest = digests[fileIndex];
    if (found === undefined || digest === undefined) continue;
    const isSettled = startMs - found.changedMs > settledMs;
    if (isSettled && identify(fd).identity === found.identity) memo.set(found.identity, digest);
  }
  writeMemo(folder, memo);
  return digests;
}

/** Equal as long as nobody writes to the files. */
export const identities = (files: readonly OpenFile[]): string[] => files.map(({ fd }) => identify(fd).identity);

interface Identified {
  readonly identity: string;
  readonly changedMs: number;
}

function identify(fd: number): Identified {
  const { dev, ino, size, mtimeNs, ctimeNs, mtimeMs, ctimeMs } = fstatSync(fd, { bigint: true });
  const changedMs = Math.max(Number(mtimeMs), Number(ctimeMs));
  return { identity: [dev, ino, size, mtimeNs, ctimeNs].join(':'), changedMs };
}

function chunksOf({ numBytes }: OpenFile, fileIndex: number): FileChunk[] {
  return Array.from({ length: Math.ceil(numBytes / chunkBytes) }, (_, i) => {
    const offset = i * chunkBytes;
    return { fileIndex, offset, numBytes: Math.min(chunkBytes, numBytes - offset) };
  });
}

const memoPath = (folder: string) => join(folder, 'digests.json');

/** Empty where there is none, or one that cannot be read: files are read again then. */
function readMemo(folder: string): Map<string, string> {
  try {
    const entries: unknown = JSON.parse(readFileSync(memoPath(folder), 'utf8'));
    if (typeof entries !== 'object' || entries === null) return new Map();
    return new Map(Object.entries(entries).filter(([, digest]) => typeof digest === 'string'));
  } catch {
    return new Map();
  }
}

/** What another process remembers at the same moment may be lost, and is then found again. */
function writeMemo(folder: string, memo: ReadonlyMap<string, string>): void {
  const part = `${memoPath(folder)}.${randomBytes(6).toString('hex')}`;
  try {
    writeFileSync(part, JSON.stringify(Object.fromEntries([...memo].slice(-maxRemembered))), { mode: 0o600 });
    renameSync(part, memoPath(folder));
  } catch (error) {
    // A cache that is only read, or a full disk: then files are read again at the next start.
    if (!(error instanceof Error) || !('syscall' in error)) throw error;
    rmSync(part, { force: true });
  }
}
