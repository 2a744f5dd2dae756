// Owns what processes take of memory, as the kernel accounts for it: shared pages are split among those who share them.
import { readFileSync } from 'node:fs';

export interface MemoryShare {
  /** Proportional set size: all of it, and the parts that it consists of. */
  readonly pssBytes: number;
  readonly anonymousBytes: number;
  readonly fileBytes: number;
  /** memfd, such as the KV pool. */
  readonly sharedBytes: number;
}

export function memoryOf(pid: number): MemoryShare {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const bytes = (field: string) => 1_024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]);
  return {
    pssBytes: bytes('Pss'),
    anonymousBytes: bytes('Pss_Anon'),
    fileBytes: bytes('Pss_File'),
    sharedBytes: bytes('Pss_Shmem'),
  };
}
