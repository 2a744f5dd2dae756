// Owns mapping another process's pool: opened through /proc, recognised by what fstat says, mapped whole.
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { XllmError } from '../../../common/errors.ts';
import type { Address } from '../../ffi/koffi.ts';
import { MAP, mmap, munmap, PROT } from '../../ffi/libc.ts';
import type { PoolFile } from './page-store.ts';

/*
 * Why not SCM_RIGHTS: Node cannot receive descriptors, so a socket of our own in native calls would be needed beside the
 * one that the instances talk over. The kernel lets the same user open /proc/PID/fd/N (PTRACE_MODE_READ, which Yama does
 * not restrict) and nobody else; a process namespace that hides the other process makes the open fail, and blocks then
 * travel over TCP. Device and inode tell whether the number still means the file that was named.
 */

export interface ForeignPool {
  readonly address: Address;
  readonly file: PoolFile;
  close(): void;
}

/** What stands for this process's file of that descriptor. */
export function describePool(fd: number, numBytes: number, pageBytes: number, numPages: number): PoolFile {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return { pid: process.pid, fd, device: dev, inode: ino, numBytes, pageBytes, numPages };
}

/** Throws where the file cannot be opened, is another one, or cannot be mapped. */
export function mapForeignPool(file: PoolFile): ForeignPool {
  const path = `/proc/${file.pid}/fd/${file.fd}`;
  const fd = openSync(path, constants.O_RDWR);
  try {
    const { dev, ino, size } = fstatSync(fd, { bigint: true });
    if (dev !== file.device || ino !== file.inode || size !== BigInt(file.numBytes))
      throw new XllmError('internal_error', `${path} is not the pool that was named`);
    // Written too: the partial block of a hand-over is the target's to fill.
    const address = mmap(file.numBytes, { prot: PROT.read | PROT.write, flags: MAP.shared, fd });
    return { address, file, close: () => munmap(address, file.numBytes) };
  } finally {
    closeSync(fd);
  }
}
