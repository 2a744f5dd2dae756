// Owns the bytes of blocks between hosts: a ticket that opens the connection, then frames of one page each. Pure.
import { crc32 } from 'node:zlib';
import type { BlockAddress, PushedBlock } from './kv-transport.ts';

/*
 * Little-endian. Frame: u32 magic, u32 length of what follows the header, u64 transfer, u32 group, u32 block, u32 CRC-32
 * of header (this field 0) and payload, 16 bytes digest (0: the block is not full); then the page.
 */

export const TICKET_BYTES = 32;
export const HEADER_BYTES = 44;
const MAGIC = 0x564b4c58;
const at = { magic: 0, numBytes: 4, transfer: 8, group: 16, block: 20, crc: 24, digest: 28 } as const;
const NO_DIGEST = '0'.repeat(32);

export interface FrameHeader extends BlockAddress {
  readonly numBytes: number;
  readonly crc: number;
  /** 32 hex digits; '': the block is not full. */
  readonly digest: string;
  /** CRC-32 of the header, to go on with over the payload. */
  readonly headerCrc: number;
}

export function encodeHeader(
  { transfer, group, block, digest }: Omit<PushedBlock, 'page'>,
  payload: Uint8Array,
): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(MAGIC, at.magic);
  header.writeUInt32LE(payload.byteLength, at.numBytes);
  header.writeBigUInt64LE(transfer, at.transfer);
  header.writeUInt32LE(group, at.group);
  header.writeUInt32LE(block, at.block);
  header.write(digest === '' ? NO_DIGEST : digest, at.digest, 'hex');
  header.writeUInt32LE(crc32(payload, crc32(header)), at.crc);
  return header;
}

/** null: these bytes are no header. */
export function decodeHeader(bytes: Buffer): FrameHeader | null {
  if (bytes.length !== HEADER_BYTES || bytes.readUInt32LE(at.magic) !== MAGIC) return null;
  const crc = bytes.readUInt32LE(at.crc);
  const blank = Buffer.from(bytes);
  blank.writeUInt32LE(0, at.crc);
  const digest = bytes.toString('hex', at.digest, HEADER_BYTES);
  return {
    numBytes: bytes.readUInt32LE(at.numBytes),
    transfer: bytes.readBigUInt64LE(at.transfer),
    group: bytes.readUInt32LE(at.group),
    block: bytes.readUInt32LE(at.block),
    crc,
    digest: digest === NO_DIGEST ? '' : digest,
    headerCrc: crc32(blank),
  };
}
