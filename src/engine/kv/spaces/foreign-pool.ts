// Owns mapping another process's pool: opened through /proc, recognised by what fstat says, mapped whole.
import { closeSync, constants, fstatSync, openSync, readlinkSync } from 'node:fs';
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

/** Memory files of pools are named so: nothing else is ever mapped. */
export const poolName = 'xllm-kv';
const hugeBytes = 2 << 20;

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
    if (!readlinkSync(path).startsWith(`/memfd:${poolName}`) || file.numPages * file.pageBytes > file.numBytes)
      throw new XllmError('internal_error', `${path} is no pool`);
    if (dev !== file.device || ino !== file.inode || size !== BigInt(file.numBytes))
      throw new XllmError('internal_error', `${path} is not the pool that was named`);
    // Aligned as the source's own mapping is, so that its huge pages are huge here too.
    const numReserved = file.numBytes + hugeBytes;
    const base = mmap(numReserved, { prot: PROT.none, flags: MAP.private | MAP.anonymous | MAP.noreserve });
    const address = Math.ceil(base / hugeBytes) * hugeBytes;
    const close = () => munmap(base, numReserved);
    try {
      // Written too: the partial block of a hand-over is the target's to fill.
      mmap(file.numBytes, { address, prot: PROT.read | PROT.write, flags: MAP.shared | MAP.fixed, fd });
    } catch (error) {
      close();
      throw error;
    }
    return { address, file, close };
  } finally {
    closeSync(fd);
  }
}
