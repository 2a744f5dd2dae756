// Owns the first bytes of a cache file: what it holds, where, and the checksums of it all.
import { invariant } from '../../../common/errors.ts';
import { TAG_BYTES, tagOf } from './tag.ts';

/*
 *   0  "XLLMWGT1"
 *   8  u32 bytes of the description, u32 0
 *  16  tag of the description
 *  32  description: JSON, UTF-8
 *   …  zeros up to dataOffset, a multiple of 2 MiB
 *   …  weights, as they lie in memory; zeros up to a multiple of 2 MiB
 */
const magic = Buffer.from('XLLMWGT1');
const prefixBytes = 32;
const maxDescriptionBytes = 256 << 20;

export interface CacheDescription {
  readonly key: string;
  /** Files that the weights come from. */
  readonly sources: readonly { readonly path: string; readonly numBytes: number }[];
  /** For people: formats and instruction set. */
  readonly about: string;
  readonly dataOffset: number;
  /** Of the weights. */
  readonly numBytes: number;
  /** Bytes of the whole file. */
  readonly fileBytes: number;
  /** [2 * pieces] byte in the weights, number of bytes. */
  readonly extents: readonly number[];
  /** base64 of a tag for each piece. */
  readonly tags: string;
}

export type Undescribed = Pick<CacheDescription, 'key' | 'sources' | 'about' | 'numBytes' | 'extents'>;

/** Huge pages begin at multiples of their size, in files as in memory. */
const hugePageBytes = 2 << 20;
const roundUp = (numBytes: number) => Math.ceil(numBytes / hugePageBytes) * hugePageBytes;

/** Places the weights behind a description whose tags are not known yet. */
export function layOutCacheFile(what: Undescribed): Omit<CacheDescription, 'tags'> {
  const numTags = what.extents.length / 2;
  const tags = Buffer.alloc(numTags * TAG_BYTES).toString('base64');
  // Offsets are short next to the page that is left for them.
  const about = JSON.stringify({ ...what, dataOffset: 0, fileBytes: 0, tags });
  const dataOffset = roundUp(prefixBytes + Buffer.byteLength(about) + 4096);
  return { ...what, dataOffset, fileBytes: dataOffset + roundUp(what.numBytes) };
}

export function encodeHeader(description: CacheDescription, secret: Uint8Array): Buffer {
  const json = Buffer.from(JSON.stringify(description));
  invariant(prefixBytes + json.length <= description.dataOffset, 'the description runs into the weights');
  const prefix = Buffer.alloc(prefixBytes);
  magic.copy(prefix);
  prefix.writeUInt32LE(json.length, magic.length);
  tagOf(secret, json).copy(prefix, prefixBytes - TAG_BYTES);
  return Buffer.concat([prefix, json]);
}

/** `read` fills a buffer from a byte of the file on and says how much there was. null: it is no sound cache file. */
export function decodeHeader(
  read: (target: Buffer, position: number) => number,
  secret: Uint8Array,
): CacheDescription | null {
  const prefix = Buffer.alloc(prefixBytes);
  if (read(prefix, 0) < prefixBytes || !prefix.subarray(0, magic.length).equals(magic)) return null;
  const numBytes = prefix.readUInt32LE(magic.length);
  if (numBytes > maxDescriptionBytes) return null;
  const json = Buffer.alloc(numBytes);
  if (read(json, prefixBytes) < numBytes) return null;
  if (!tagOf(secret, json).equals(prefix.subarray(prefixBytes - TAG_BYTES))) return null;
  // The tag says that it is what was written.
  return JSON.parse(json.toString()) as CacheDescription;
}
