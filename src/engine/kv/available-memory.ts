// Owns reading how much memory this process can still take: the system's, or its control group's where that is less.
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { dirname, join } from 'node:path';

export interface AvailableMemory {
  readonly bytes: number;
  readonly limitedBy: 'system' | 'control group';
}

/** `root`: where /proc and /sys are found; another one in tests. */
export function readAvailableMemory(root = '/'): AvailableMemory {
  const systemBytes = meminfoBytes(read(root, 'proc/meminfo')) ?? freemem();
  const groupBytes = controlGroupBytes(root);
  return groupBytes < systemBytes
    ? { bytes: groupBytes, limitedBy: 'control group' }
    : { bytes: systemBytes, limitedBy: 'system' };
}

function meminfoBytes(meminfo: string | null): number | null {
  const kibibytes = meminfo?.match(/^MemAvailable:\s+(\d+) kB$/m)?.[1];
  return kibibytes === undefined ? null : Number(kibibytes) * 1024;
}

/** Least headroom of the process's control group and its parents, in version 1 or 2; Infinity: no limit. */
function controlGroupBytes(root: string): number {
  let least = Number.POSITIVE_INFINITY;
  for (const line of read(root, 'proc/self/cgroup')?.split('\n') ?? []) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (path === undefined) continue;
    if (controllers === '') {
      // Version 2 may be mounted beside version 1.
      for (const mount of ['sys/fs/cgroup', 'sys/fs/cgroup/unified']) {
        const files = { limit: 'memory.max', usage: 'memory.current', inactive: 'inactive_file' };
        least = Math.min(least, headroom(root, mount, path, files));
      }
    } else if (controllers?.split(',').includes('memory')) {
      const files = {
        limit: 'memory.limit_in_bytes',
        usage: 'memory.usage_in_bytes',
        inactive: 'total_inactive_file',
      };
      least = Math.min(least, headroom(root, 'sys/fs/cgroup/memory', path, files));
    }
  }
  return least;
}

interface GroupFiles {
  readonly limit: string;
  readonly usage: string;
  /** Row of memory.stat: file cache that the kernel drops on demand. */
  readonly inactive: string;
}

function headroom(root: string, mount: string, path: string, files: GroupFiles): number {
  let least = Number.POSITIVE_INFINITY;
  // In a container the path may be the host's: then the mount itself is the group, and the folders below are missing.
  for (let folder = path; ; folder = dirname(folder)) {
    const at = (file: string): string | null => read(root, join(mount, folder, file));
    const limit = Number(at(files.limit) ?? 'max');
    const usage = Number(at(files.usage) ?? Number.NaN);
    if (Number.isFinite(limit) && Number.isFinite(usage)) {
      const inactive = new RegExp(`^${files.inactive} (\\d+)$`, 'm').exec(at('memory.stat') ?? '')?.[1];
      least = Math.min(least, limit - usage + Number(inactive ?? 0));
    }
    if (folder === '/' || folder === '.' || folder === '') return Math.max(0, least);
  }
}

/** null: there is no such file here. */
function read(root: string, path: string): string | null {
  try {
    return readFileSync(join(root, path), 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && ['ENOENT', 'EACCES', 'ENOTDIR'].includes(String(error.code))) {
      return null;
    }
    throw error;
  }
}
