// Owns the libc calls of the engine: memory mappings, memfd, CPU affinity. Linux; other systems say what is missing.
import { type Address, koffi } from './koffi.ts';

const MAP_FAILED = -1;
/** Flag values of Linux on x86-64 and arm64 (asm-generic/mman-common.h). */
export const PROT = { none: 0, read: 1, write: 2, exec: 4 } as const;
export const MAP = {
  shared: 1,
  private: 2,
  fixed: 0x10,
  anonymous: 0x20,
  noreserve: 0x4000,
  populate: 0x8000,
} as const;
export const MADV = {
  dontneed: 4,
  hugepage: 14,
  nohugepage: 15,
  populateRead: 22,
  populateWrite: 23,
  collapse: 25,
} as const;
/** Of sys/file.h. */
export const LOCK = { shared: 1, exclusive: 2, nonBlocking: 4 } as const;
export const PAGE_BYTES = 4096;

type NativeFunction = ReturnType<ReturnType<typeof koffi.load>['func']>;

/** Bound on first use, so that importing this file works on any system. */
const functions = new Map<string, NativeFunction>();
let library: ReturnType<typeof koffi.load> | undefined;

function libc(prototype: string): NativeFunction {
  let fn = functions.get(prototype);
  if (!fn) {
    library ??= koffi.load('libc.so.6');
    fn = library.func(prototype);
    functions.set(prototype, fn);
  }
  return fn;
}

/** Why a native call failed. `errno` is the symbolic name where it is known. */
export class SystemError extends Error {
  readonly errno: string;
  constructor(call: string) {
    const number = koffi.errno();
    const name = Object.entries(koffi.os.errno).find(([, value]) => value === number)?.[0] ?? String(number);
    super(`${call} failed: ${name}`);
    this.name = 'SystemError';
    this.errno = name;
  }
}

function check(result: number, call: string): number {
  if (result < 0) throw new SystemError(call);
  return result;
}

export interface MapOptions {
  /** Wanted address; with MAP.fixed the exact one. 0: anywhere. */
  readonly address?: Address;
  readonly prot: number;
  readonly flags: number;
  readonly fd?: number;
  readonly offset?: number;
}

/** mmap(2). Throws SystemError. */
export function mmap(numBytes: number, options: MapOptions): Address {
  const { address = 0, prot, flags, fd = -1, offset = 0 } = options;
  const result = Number(
    libc('intptr_t mmap(intptr_t, size_t, int, int, int, int64_t)')(address, numBytes, prot, flags, fd, offset),
  );
  if (result === MAP_FAILED) throw new SystemError(`mmap of ${numBytes} bytes`);
  return result;
}

/** munmap(2). Throws SystemError. */
export function munmap(address: Address, numBytes: number): void {
  check(libc('int munmap(intptr_t, size_t)')(address, numBytes), 'munmap');
}

/** mprotect(2). Throws SystemError (EACCES: the system refuses executable memory). */
export function mprotect(address: Address, numBytes: number, prot: number): void {
  check(libc('int mprotect(intptr_t, size_t, int)')(address, numBytes, prot), 'mprotect');
}

/** madvise(2). Returns whether the kernel took the advice: it is only ever advice. */
export function madvise(address: Address, numBytes: number, advice: number): boolean {
  return libc('int madvise(intptr_t, size_t, int)')(address, numBytes, advice) === 0;
}

/** malloc_trim(3): gives what was freed back to the system, which malloc keeps otherwise. */
export function trimHeap(): void {
  libc('int malloc_trim(size_t)')(0);
}

/** An anonymous file in memory, closed on exec. Throws SystemError. */
export function memfdCreate(name: string): number {
  const MFD_CLOEXEC = 1;
  return check(libc('int memfd_create(const char *, unsigned int)')(name, MFD_CLOEXEC), 'memfd_create');
}

/** ftruncate(2). Throws SystemError. */
export function ftruncate(fd: number, numBytes: number): void {
  check(libc('int ftruncate(int, int64_t)')(fd, numBytes), `ftruncate to ${numBytes} bytes`);
}

/** Reserves real memory for a range of a memfd, so that touching it cannot raise SIGBUS. Throws SystemError (ENOSPC). */
export function fallocate(fd: number, offset: number, numBytes: number): void {
  check(libc('int fallocate(int, int, int64_t, int64_t)')(fd, 0, offset, numBytes), `fallocate of ${numBytes} bytes`);
}

/** `fallocate` off the event loop: zeroing takes milliseconds. Rejects with SystemError (ENOSPC, ENOMEM). */
export async function fallocateAsync(fd: number, offset: number, numBytes: number): Promise<void> {
  const call = libc('int fallocate(int, int, int64_t, int64_t)');
  await settled(`fallocate of ${numBytes} bytes`, (done) => call.async(fd, 0, offset, numBytes, done));
}

/** `madvise` off the event loop, for advice that does work at once. Resolves to whether the kernel took it. */
export async function madviseAsync(address: Address, numBytes: number, advice: number): Promise<boolean> {
  const call = libc('int madvise(intptr_t, size_t, int)');
  return new Promise((resolve, reject) => {
    call.async(address, numBytes, advice, (error: unknown, result: number) => {
      if (error) reject(error as Error);
      else resolve(result === 0);
    });
  });
}

/**
 * flock(2) without waiting; the lock ends with the descriptor. False: another descriptor holds one that excludes it.
 * Throws SystemError (ENOLCK, EOPNOTSUPP: this file system has no locks).
 */
export function tryFlock(fd: number, operation: number): boolean {
  if (libc('int flock(int, int)')(fd, operation | LOCK.nonBlocking) === 0) return true;
  const error = new SystemError('flock');
  if (error.errno === 'EAGAIN' || error.errno === 'EWOULDBLOCK') return false;
  throw error;
}

/** close(2) for descriptors that Node does not own. Throws SystemError. */
export function closeFd(fd: number): void {
  check(libc('int close(int)')(fd), 'close');
}

/** Descriptors to read from and to write to; child processes do not get them. Throws SystemError. */
export function createPipe(): readonly [read: number, write: number] {
  const O_CLOEXEC = 0o2000000;
  const fds = new Int32Array(2);
  check(libc('int pipe2(_Out_ int *, int)')(fds, O_CLOEXEC), 'pipe2');
  return [fds[0]!, fds[1]!];
}

/** Waits on this thread for a byte, and takes it. Throws SystemError. */
export function waitReadable(fd: number): void {
  const POLLIN = 1;
  // struct pollfd: int fd, short events, short revents.
  const polled = Int32Array.of(fd, POLLIN);
  check(libc('int poll(_Inout_ int *, unsigned long, int)')(polled, 1, -1), 'poll');
  check(libc('intptr_t read(int, _Out_ uint8_t *, size_t)')(fd, new Uint8Array(1), 1), 'read');
}

/**
 * Maps fd pages at fixed addresses, off the event loop. `entries` are (address, offset) pairs.
 * Rejects with SystemError (ENOMEM: the mapping limit vm.max_map_count is reached).
 */
export async function mapFixedAsync(
  entries: readonly { readonly address: Address; readonly offset: number; readonly numBytes: number }[],
  fd: number,
): Promise<void> {
  const call = libc('intptr_t mmap(intptr_t, size_t, int, int, int, int64_t)');
  const prot = PROT.read | PROT.write;
  const flags = MAP.shared | MAP.fixed | MAP.populate;
  await Promise.all(
    entries.map(({ address, offset, numBytes }) =>
      settled('mmap of a KV page', (done) => call.async(address, numBytes, prot, flags, fd, offset, done)),
    ),
  );
}

type Done = (error: unknown, result: number | bigint) => void;

/** Resolves once an async call has returned something else than -1. koffi keeps errno for the callback. */
function settled(name: string, start: (done: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    start((error, result) => {
      if (error) reject(error as Error);
      else if (Number(result) === -1) reject(new SystemError(name));
      else resolve();
    });
  });
}

/** memcpy(3) off the event loop. The areas must not overlap, and must stay mapped until it resolves. */
export async function copyMemoryAsync(to: Address, from: Address, numBytes: number): Promise<void> {
  const call = libc('intptr_t memcpy(intptr_t, intptr_t, size_t)');
  await settled('memcpy', (done) => call.async(to, from, numBytes, done));
}

/** CPUs this process may run on. */
export function allowedCpus(): number[] {
  const mask = new Uint8Array(128);
  check(libc('int sched_getaffinity(int, size_t, _Out_ uint8_t *)')(0, mask.length, mask), 'sched_getaffinity');
  const cpus: number[] = [];
  for (let cpu = 0; cpu < mask.length * 8; cpu++) {
    if ((mask[cpu >> 3]! >> (cpu & 7)) & 1) cpus.push(cpu);
  }
  return cpus;
}

/** Starts a thread in native code: `void *entry(void *argument)`. Returns its handle. Throws an Error with the number. */
export function createThread(entry: Address, argument: Address): number {
  const handle = new BigUint64Array(1);
  const create = libc('int pthread_create(_Out_ uint64_t *, intptr_t, intptr_t, intptr_t)');
  const status = Number(create(handle, 0, entry, argument));
  if (status !== 0) throw new Error(`pthread_create failed: error ${status}`);
  return Number(handle[0]);
}

/** Waits for the thread to return. */
export function joinThread(handle: number): void {
  libc('int pthread_join(uint64_t, intptr_t)')(handle, 0);
}
