// Mapping another process's pool: what is written on one side is read on the other, and nothing else is ever mapped.
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { viewMemory } from '../../ffi/koffi.ts';
import { closeFd, ftruncate, MAP, memfdCreate, mmap, munmap, PROT } from '../../ffi/libc.ts';
import { describePool, mapForeignPool, poolName } from './foreign-pool.ts';

const numBytes = 4 << 20;

test.skipIf(process.platform !== 'linux')('a pool is seen from both sides', () => {
  const fd = memfdCreate(poolName);
  ftruncate(fd, numBytes);
  const address = mmap(numBytes, { prot: PROT.read | PROT.write, flags: MAP.shared, fd });
  const file = describePool(fd, numBytes, 4096, numBytes / 4096);
  const mapped = mapForeignPool(file);
  expect(mapped.address % (2 << 20)).toBe(0);
  new Uint8Array(viewMemory(address, numBytes))[12_345] = 7;
  expect(new Uint8Array(viewMemory(mapped.address, numBytes))[12_345]).toBe(7);
  mapped.close();
  for (const wrong of [
    { ...file, inode: file.inode + 1n },
    { ...file, device: file.device + 1n },
    { ...file, numBytes: numBytes / 2, numPages: 1 },
    { ...file, numPages: numBytes / 4096 + 1 },
    { ...file, fd: 9_999 },
    { ...file, pid: 2 ** 22 + 1 },
  ])
    expect(() => mapForeignPool(wrong)).toThrow();
  munmap(address, numBytes);
  closeFd(fd);
});

test.skipIf(process.platform !== 'linux')('a file of another kind is refused, however well it is described', () => {
  const folder = mkdtempSync(join(tmpdir(), 'xllm-test-pool-'));
  const path = join(folder, poolName);
  writeFileSync(path, Buffer.alloc(numBytes));
  const fd = openSync(path, 'r+');
  expect(() => mapForeignPool(describePool(fd, numBytes, 4096, 1))).toThrow(/is no pool/);
  closeSync(fd);
  rmSync(folder, { recursive: true });
});
