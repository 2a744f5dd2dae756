// Digests follow content: remembered only while a file is untouched, whatever its times say.
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, test } from 'vitest';
import type { FileChunk } from '../prepare-messages.ts';
import { fileDigests } from './file-digest.ts';
import { tagOf } from './tag.ts';

const folder = mkdtempSync(join(tmpdir(), 'xllm-digest-'));
afterAll(() => rmSync(folder, { recursive: true }));
const path = join(folder, 'model');
let numRead = 0;
beforeEach(() => {
  writeFileSync(path, Buffer.alloc(3 << 20, 'content'));
  numRead = 0;
});

/** `laterMs`: how long after now the digest is asked for. */
async function digest(laterMs: number): Promise<string | undefined> {
  const fd = openSync(path, 'r+');
  try {
    const file = { path, fd, numBytes: fstatSync(fd).size };
    const read = async (chunks: readonly FileChunk[]) => {
      numRead += chunks.length;
      const tags = chunks.map(({ offset, numBytes }) => {
        const bytes = Buffer.alloc(numBytes);
        readSync(fd, bytes, 0, numBytes, offset);
        return tagOf(Buffer.alloc(16), bytes);
      });
      return Buffer.concat(tags);
    };
    return (await fileDigests([file], folder, read, () => Date.now() + laterMs))[0];
  } finally {
    closeSync(fd);
  }
}

test('an untouched file is read once', async () => {
  const first = await digest(10_000);
  expect(await digest(10_000)).toBe(first);
  expect(numRead).toBe(3);
});

test('a file that changed a moment ago is not remembered', async () => {
  const first = await digest(0);
  expect(await digest(10_000)).toBe(first);
  expect(numRead).toBe(6);
});

test('a change is seen though size and modification time are as before', async () => {
  utimesSync(path, 1_000, 1_000);
  const first = await digest(10_000);
  const fd = openSync(path, 'r+');
  writeSync(fd, 'X', 2_000_000);
  closeSync(fd);
  utimesSync(path, 1_000, 1_000);
  expect(await digest(10_000)).not.toBe(first);
  expect(numRead).toBe(6);
});

test('every byte and the length count', async () => {
  const seen = new Set([await digest(0)]);
  for (const [size, at] of [
    [3 << 20, 0],
    [3 << 20, (3 << 20) - 1],
    [(3 << 20) + 1, 0],
    [0, -1],
  ] as const) {
    const bytes = Buffer.alloc(size, 'content');
    if (at >= 0) bytes[at] = 0;
    writeFileSync(path, bytes);
    seen.add(await digest(0));
  }
  expect(seen.size).toBe(5);
});

test('a memo that cannot be read is no memo', async () => {
  const first = await digest(10_000);
  writeFileSync(join(folder, 'digests.json'), '{"x"');
  expect(await digest(10_000)).toBe(first);
  expect(numRead).toBe(6);
});
