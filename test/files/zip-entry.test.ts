// Owns the tests of taking a file out of a zip archive.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32, deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { extractZipEntry } from '../../src/files/resolve/zip-entry.ts';
import { putFile, useTempFolder } from './temp-folder.ts';

const folder = useTempFolder('zip');
const content = Buffer.from('weights '.repeat(1_000));

/** An archive of `content` under each name, packed or stored. */
function archive(entries: readonly { readonly name: string; readonly method: 0 | 8 }[], comment = ''): Buffer {
  const locals: Buffer[] = [];
  const centrals: Buffer[] = [];
  let offset = 0;
  for (const { name, method } of entries) {
    const packed = method === 8 ? deflateRawSync(content) : content;
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(method, 8);
    local.writeUInt16LE(name.length, 26);
    local.writeUInt16LE(4, 28);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(method, 10);
    central.writeUInt32LE(crc32(content), 16);
    central.writeUInt32LE(packed.length, 20);
    central.writeUInt32LE(content.length, 24);
    central.writeUInt16LE(name.length, 28);
    central.writeUInt32LE(offset, 42);
    centrals.push(central, Buffer.from(name));
    locals.push(local, Buffer.from(name), Buffer.alloc(4), packed);
    offset += 30 + name.length + 4 + packed.length;
  }
  const directory = Buffer.concat(centrals);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  end.writeUInt16LE(comment.length, 20);
  return Buffer.concat([...locals, directory, end, Buffer.from(comment)]);
}

const target = join(folder, 'out');
const entries = [
  { name: 'a/stored.bin', method: 0 },
  { name: 'a/packed.bin', method: 8 },
] as const;

describe('extractZipEntry', () => {
  it.each(entries)('takes out $name', async ({ name }) => {
    await extractZipEntry(putFile(folder, 'm.zip', archive(entries, 'a comment')), name, target);
    expect(readFileSync(target).equals(content)).toBe(true);
  });

  it('names what is wrong', async () => {
    const bytes = archive(entries);
    const extract = (zip: Uint8Array, name = 'a/packed.bin') =>
      extractZipEntry(putFile(folder, 'w.zip', zip), name, target);
    await expect(extract(bytes, 'a/none.bin')).rejects.toThrow('w.zip: holds no a/none.bin');
    await expect(extract(Buffer.from('text'))).rejects.toThrow('is not a zip archive');
    await expect(extract(bytes.subarray(40))).rejects.toThrow();
    const lying = Buffer.from(bytes);
    lying.writeUInt32LE(0xffff_ffff, lying.length - 10);
    await expect(extract(lying)).rejects.toThrow('has a directory beyond its end');
  });
});
