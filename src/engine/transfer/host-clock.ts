// Owns what processes of one host agree on: its monotonic clock, its name, and whether a process still lives.
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

/** CLOCK_MONOTONIC, the same in every process of the host. */
export function hostNowNs(): bigint {
  return process.hrtime.bigint();
}

/** Equal where processes can see each other: one boot of one kernel, one process namespace. '': nobody can be seen. */
export function hostId(): string {
  if (process.platform !== 'linux') return '';
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${hostname()} ${boot} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch (error) {
    // Hidden in some sandboxes: then pools are not mapped.
    if (error instanceof Error && 'code' in error) return '';
    throw error;
  }
}

/** When the process was started, in ticks since boot; null: there is none of that number. */
export function startOf(pid: number): string | null {
  try {
    // The name in brackets may hold anything.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
    // A zombie has let go of its memory.
    return fields[0] === 'Z' ? null : (fields[19] ?? null);
  } catch (error) {
    if (error instanceof Error && 'code' in error) return null;
    throw error;
  }
}
