// Owns taking one file out of a zip archive (a Python wheel). Format: PKWARE's APPNOTE.TXT, sections 4.3.7 to 4.3.16.
import { createReadStream, createWriteStream } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createInflateRaw } from 'node:zlib';
import { invalidFile } from '../open-file.ts';

const endBytes = 22;
const maxCommentBytes = 65_535;
const centralBytes = 46;
const localBytes = 30;
const maxDirectoryBytes = 16 << 20;
const stored = 0;
const deflated = 8;

interface Entry {
  readonly method: number;
  readonly packedBytes: number;
  readonly localOffset: number;
}

/**
 * Writes the archive's file `name` to `target`; whoever knows its checksum compares it. Throws XllmError
 * model_file_invalid where the archive is damaged, lacks the file, or is larger than 4 GiB (zip64).
 */
export async function extractZipEntry(archive: string, name: string, target: string): Promise<void> {
  const file = await open(archive, 'r');
  try {
    const { method, packedBytes, localOffset } = await findEntry(archive, file, name);
    const local = await readExactly(archive, file, localOffset, localBytes);
    if (local.readUInt32LE(0) !== 0x04034b50) throw invalidFile(archive, 'has no file header here', localOffset);
    const start = localOffset + localBytes + local.readUInt16LE(26) + local.readUInt16LE(28);
    if (method !== stored && method !== deflated) throw invalidFile(archive, `packs ${name} by method ${method}`);
    if (packedBytes === 0) throw invalidFile(archive, `holds nothing for ${name}`);
    const packed = createReadStream(archive, { start, end: start + packedBytes - 1 });
    await pipeline(packed, method === deflated ? createInflateRaw() : new PassThrough(), createWriteStream(target));
  } finally {
    await file.close();
  }
}

async function findEntry(archive: string, file: FileHandle, name: string): Promise<Entry> {
  const { size } = await file.stat();
  const tailStart = Math.max(0, size - endBytes - maxCommentBytes);
  const tail = await readExactly(archive, file, tailStart, size - tailStart);
  const at = tail.lastIndexOf(Buffer.from([0x50, 0x4b, 0x05, 0x06]));
  if (at < 0 || at + endBytes > tail.length) throw invalidFile(archive, 'is not a zip archive');
  const directoryBytes = tail.readUInt32LE(at + 12);
  const directoryStart = tail.readUInt32LE(at + 16);
  if (directoryBytes > maxDirectoryBytes || directoryStart + directoryBytes > size) {
    throw invalidFile(archive, 'has a directory beyond its end', tailStart + at);
  }
  const directory = await readExactly(archive, file, directoryStart, directoryBytes);
  for (let entry = 0; entry + centralBytes <= directory.length; ) {
    if (directory.readUInt32LE(entry) !== 0x02014b50) break;
    const nameBytes = directory.readUInt16LE(entry + 28);
    const entryName = directory.toString('utf8', entry + centralBytes, entry + centralBytes + nameBytes);
    if (entryName === name) {
      return {
        method: directory.readUInt16LE(entry + 10),
        packedBytes: directory.readUInt32LE(entry + 20),
        localOffset: directory.readUInt32LE(entry + 42),
      };
    }
    entry += centralBytes + nameBytes + directory.readUInt16LE(entry + 30) + directory.readUInt16LE(entry + 32);
  }
  throw invalidFile(archive, `holds no ${name}`);
}

async function readExactly(archive: string, file: FileHandle, position: number, numBytes: number): Promise<Buffer> {
  const bytes = Buffer.alloc(numBytes);
  const { bytesRead } = await file.read(bytes, 0, numBytes, position);
  if (bytesRead < numBytes) throw invalidFile(archive, 'ends early', position + bytesRead);
  return bytes;
}
