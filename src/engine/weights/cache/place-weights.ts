// Owns how the weights of a cache file come into memory: mapped and shared, or read into huge pages of this process.
import { read, readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { MADV, madviseAsync } from '../../ffi/libc.ts';
import { allocateNative, mapFile, type NativeMemory } from '../../ffi/memory.ts';

export type WeightsMemory = 'auto' | 'mapped' | 'huge-pages';

export interface PlacedWeights {
  readonly memory: NativeMemory;
  readonly kind: 'mapped' | 'huge pages';
  readonly reason: string;
}

export interface PlaceOptions {
  readonly fd: number;
  readonly offset: number;
  readonly numBytes: number;
  readonly wanted: WeightsMemory;
  /** No other process uses the file. */
  readonly isSole: boolean;
}

const readAt = promisify(read);
const readBytes = 8 << 20;
/** What is mapped first, to see what pages the file system gives. */
const probeBytes = 32 << 20;

/** A file that is not what its description says, or that its disk does not give back. */
export class DamagedFile extends Error {}

/**
 * The mapped weights, or why they should be read with `readIntoMemory` instead, once the file is whole. Measured
 * (docs/weights.md): products read a mapping as fast as memory of one's own where the page cache has it in 2 MiB pages,
 * and slower where it is in 4 KiB pages. Throws SystemError.
 */
export async function mapWeights(options: PlaceOptions): Promise<PlacedWeights | string> {
  const { fd, offset, numBytes, wanted, isSole } = options;
  if (wanted === 'huge-pages') return 'as asked for';
  const memory = mapFile(fd, offset, numBytes);
  const probe = Math.min(probeBytes, memory.numBytes);
  // Populating also finds what the disk fails to give, where a touch would end the process.
  const canPopulate = await madviseAsync(memory.address, probe, MADV.populateRead);
  const isHuge = hugeFileBytes(memory.address) >= probe / 2;
  const isWorthwhile = canPopulate && (wanted === 'mapped' || isHuge || !isSole);
  if (!isWorthwhile || !(await madviseAsync(memory.address, memory.numBytes, MADV.populateRead))) {
    memory.free();
    return isWorthwhile || !canPopulate ? 'the mapping could not be filled' : 'files are in 4 KiB pages here';
  }
  const pages = isHuge ? 'in 2 MiB pages of the page cache' : 'in 4 KiB pages';
  const reason = isHuge || wanted === 'mapped' ? pages : `${pages}, shared with another instance`;
  return { memory, kind: 'mapped', reason };
}

/** Rejects with DamagedFile, or SystemError ENOMEM. */
export async function readIntoMemory({ fd, offset, numBytes }: PlaceOptions, reason: string): Promise<PlacedWeights> {
  const memory = allocateNative(numBytes);
  try {
    for (let done = 0; done < numBytes; ) {
      const piece = new Uint8Array(memory.buffer, done, Math.min(readBytes, numBytes - done));
      const { bytesRead } = await readAt(fd, piece, 0, piece.length, offset + done);
      if (bytesRead === 0) throw new DamagedFile('the cache file ends early');
      done += bytesRead;
    }
  } catch (error) {
    memory.free();
    if (error instanceof Error && 'syscall' in error) throw new DamagedFile(error.message, { cause: error });
    throw error;
  }
  return { memory, kind: 'huge pages', reason };
}

/** Of the mapping that starts at `address`: what is in 2 MiB pages. */
function hugeFileBytes(address: number): number {
  const lines = readFileSync('/proc/self/smaps', 'utf8').split('\n');
  const start = lines.findIndex((line) => line.startsWith(`${address.toString(16)}-`));
  const row = lines.slice(start, start + 40).find((line) => line.startsWith('FilePmdMapped:'));
  return start < 0 ? 0 : Number(/\d+/.exec(row ?? '')?.[0] ?? 0) * 1024;
}
