// Owns native memory: plain (zeroed, page-aligned) or a file's, on huge pages where the system grants them.
import { type Address, viewMemory } from './koffi.ts';
import { MADV, MAP, madvise, mmap, munmap, PROT } from './libc.ts';

const hugePageBytes = 2 * 1024 * 1024;

export interface NativeMemory {
  readonly address: Address;
  readonly numBytes: number;
  /** Live; must not be used after `free`. */
  readonly buffer: ArrayBuffer;
  free(): void;
}

/** Aligned to 2 MiB where it is that large (then huge pages apply), else to 4 KiB. Throws SystemError (ENOMEM). */
export function allocateNative(numBytes: number): NativeMemory {
  const isLarge = numBytes >= hugePageBytes;
  const rounding = isLarge ? hugePageBytes : 4096;
  const usable = Math.max(rounding, Math.ceil(numBytes / rounding) * rounding);
  const mapped = isLarge ? usable + hugePageBytes : usable;
  const base = mmap(mapped, { prot: PROT.read | PROT.write, flags: MAP.private | MAP.anonymous });
  const address = isLarge ? Math.ceil(base / hugePageBytes) * hugePageBytes : base;
  if (isLarge) madvise(address, usable, MADV.hugepage);
  return { address, numBytes: usable, buffer: viewMemory(address, usable), free: () => munmap(base, mapped) };
}

/**
 * Part of a file, read-only and shared with all who map it; `offset` is a multiple of 2 MiB. Memory that lies beyond the
 * file's end, or that its disk fails to give, ends the process when it is touched. Throws SystemError.
 */
export function mapFile(fd: number, offset: number, numBytes: number): NativeMemory {
  const mapped = Math.ceil(numBytes / hugePageBytes) * hugePageBytes;
  // A hole to choose an aligned address in.
  const hole = mapped + hugePageBytes;
  const flags = MAP.private | MAP.anonymous | MAP.noreserve;
  const base = mmap(hole, { prot: PROT.none, flags });
  const address = Math.ceil(base / hugePageBytes) * hugePageBytes;
  try {
    mmap(mapped, { address, prot: PROT.read, flags: MAP.shared | MAP.fixed, fd, offset });
  } catch (error) {
    munmap(base, hole);
    throw error;
  }
  madvise(address, mapped, MADV.hugepage);
  return { address, numBytes: mapped, buffer: viewMemory(address, mapped), free: () => munmap(base, hole) };
}
