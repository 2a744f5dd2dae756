// Owns the checksums that model sources state, and checking a file on disk against one.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';

/** `git`: SHA-1 of git's blob header and the content, which the Hub states for files outside its large-file store. */
export interface Checksum {
  readonly kind: 'sha256' | 'git';
  readonly hex: string;
}

/** Reads the whole file: about 1 s per GiB. */
export async function hasChecksum(path: string, numBytes: number, checksum: Checksum): Promise<boolean> {
  const hash = createHash(checksum.kind === 'git' ? 'sha1' : 'sha256');
  if (checksum.kind === 'git') hash.update(`blob ${numBytes}\0`);
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
    hash.update(piece);
  }
  return hash.digest('hex') === checksum.hex;
}
