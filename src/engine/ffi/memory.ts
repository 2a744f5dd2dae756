// Owns plain native memory: zeroed, page-aligned, on huge pages where the system grants them.
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
