// Memory calls as the engine uses them: one memfd seen through two mappings, failures by name.
import { expect, test } from 'vitest';
import { viewMemory } from './koffi.ts';
import {
  allowedCpus,
  closeFd,
  fallocate,
  ftruncate,
  MAP,
  mapFixedAsync,
  memfdCreate,
  mmap,
  munmap,
  PAGE_BYTES,
  PROT,
  SystemError,
} from './libc.ts';

const readWrite = PROT.read | PROT.write;

test('a page mapped twice is the same memory', async () => {
  const fd = memfdCreate('xllm-test');
  ftruncate(fd, 4 * PAGE_BYTES);
  fallocate(fd, 0, 4 * PAGE_BYTES);
  const whole = mmap(4 * PAGE_BYTES, { prot: readWrite, flags: MAP.shared, fd });
  const range = mmap(2 * PAGE_BYTES, { prot: PROT.none, flags: MAP.private | MAP.anonymous | MAP.noreserve });
  await mapFixedAsync(
    [
      { address: range, offset: 3 * PAGE_BYTES, numBytes: PAGE_BYTES },
      { address: range + PAGE_BYTES, offset: 1 * PAGE_BYTES, numBytes: PAGE_BYTES },
    ],
    fd,
  );
  new Uint8Array(viewMemory(whole + 3 * PAGE_BYTES, PAGE_BYTES))[7] = 42;
  new Uint8Array(viewMemory(range + PAGE_BYTES, PAGE_BYTES))[9] = 43;
  expect(new Uint8Array(viewMemory(range, PAGE_BYTES))[7]).toBe(42);
  expect(new Uint8Array(viewMemory(whole + PAGE_BYTES, PAGE_BYTES))[9]).toBe(43);
  munmap(range, 2 * PAGE_BYTES);
  munmap(whole, 4 * PAGE_BYTES);
  closeFd(fd);
});

test('a failing call names itself and its errno', () => {
  expect(() => munmap(1, PAGE_BYTES)).toThrow(SystemError);
  expect(() => munmap(1, PAGE_BYTES)).toThrow(/munmap failed: EINVAL/);
});

test('affinity lists at least one CPU', () => {
  expect(allowedCpus().length).toBeGreaterThan(0);
});
