// Available memory as the kernel's files tell it, in the layouts that are met in the wild.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { readAvailableMemory } from './available-memory.ts';

const roots: string[] = [];
afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true });
});

function rootWith(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(tmpdir(), 'xllm-memory-'));
  roots.push(root);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

const meminfo = 'MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\n';
const systemBytes = 12_000_000 * 1024;

test('without limits the system decides', () => {
  const root = rootWith({
    'proc/meminfo': meminfo,
    'proc/self/cgroup': '0::/user\n',
    'sys/fs/cgroup/user/memory.max': 'max\n',
  });
  expect(readAvailableMemory(root)).toEqual({ bytes: systemBytes, limitedBy: 'system' });
});

test('version 2: the tightest group up to the root, file cache counted as free', () => {
  const root = rootWith({
    'proc/meminfo': meminfo,
    'proc/self/cgroup': '0::/pod/app\n',
    'sys/fs/cgroup/pod/app/memory.max': 'max\n',
    'sys/fs/cgroup/pod/memory.max': '2000000\n',
    'sys/fs/cgroup/pod/memory.current': '1500000\n',
    'sys/fs/cgroup/pod/memory.stat': 'anon 7\ninactive_file 300000\n',
  });
  expect(readAvailableMemory(root)).toEqual({ bytes: 800_000, limitedBy: 'control group' });
});

test('version 2 in a container: the mount is the group, whatever the path says', () => {
  const root = rootWith({
    'proc/meminfo': meminfo,
    'proc/self/cgroup': '0::/../../docker/abc\n',
    'sys/fs/cgroup/memory.max': '1000000\n',
    'sys/fs/cgroup/memory.current': '999999\n',
  });
  expect(readAvailableMemory(root).bytes).toBe(1);
});

test('version 1, whose "no limit" is a huge number', () => {
  const files = {
    'proc/meminfo': meminfo,
    'proc/self/cgroup': '5:cpuset:/\n4:cpu,memory:/job\n0::/\n',
    'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
    'sys/fs/cgroup/memory/memory.usage_in_bytes': '5\n',
    'sys/fs/cgroup/memory/job/memory.usage_in_bytes': '400\n',
    'sys/fs/cgroup/memory/job/memory.stat': 'inactive_file 1\ntotal_inactive_file 100\n',
  };
  expect(readAvailableMemory(rootWith(files)).limitedBy).toBe('system');
  const limited = { ...files, 'sys/fs/cgroup/memory/job/memory.limit_in_bytes': '1000\n' };
  expect(readAvailableMemory(rootWith(limited)).bytes).toBe(700);
});

test('a group over its limit has nothing left; a system without these files has something', () => {
  const root = rootWith({
    'proc/meminfo': meminfo,
    'proc/self/cgroup': '0::/\n',
    'sys/fs/cgroup/memory.max': '10\n',
    'sys/fs/cgroup/memory.current': '20\n',
  });
  expect(readAvailableMemory(root).bytes).toBe(0);
  expect(readAvailableMemory(rootWith({})).bytes).toBeGreaterThan(0);
  expect(readAvailableMemory().bytes).toBeGreaterThan(0);
});
