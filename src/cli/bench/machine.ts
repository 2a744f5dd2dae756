// Owns the description of machine and software that every benchmark result carries.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

export const machineSchema = z.object({
  cpu: z.string(),
  /** Cores that this process may use. */
  cores: z.number(),
  memoryGiB: z.number(),
  /** Instruction sets that decide which kernels run. */
  features: z.array(z.string()),
  os: z.string(),
  node: z.string(),
});
export type Machine = z.infer<typeof machineSchema>;

const NOTABLE_FEATURES = [
  'avx2',
  'fma',
  'f16c',
  'avx512f',
  'avx512_vnni',
  'avx512_bf16',
  'avx_vnni',
  'amx_int8',
  'asimd',
];

/** /proc/cpuinfo, empty where there is none. */
export function readCpuinfo(): string {
  return existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '';
}

/** `cpuinfo` is the text of /proc/cpuinfo, empty where there is none. */
export function describeMachine(cpuinfo: string): Machine {
  const flags = new Set(/^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuinfo)?.[1]?.split(' '));
  return {
    cpu: cpus()[0]?.model.trim() || process.arch,
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    features: NOTABLE_FEATURES.filter((feature) => flags.has(feature)),
    os: `${type()} ${release()}`,
    node: process.version,
  };
}

const packageRoot = fileURLToPath(new URL('../../../', import.meta.url));

/** Commit of the source tree, with `-dirty` where tracked files differ; null in an installed package. */
export function sourceCommit(): string | null {
  if (!existsSync(`${packageRoot}.git`)) return null;
  const git = (...args: string[]): string => execFileSync('git', ['-C', packageRoot, ...args], { encoding: 'utf8' });
  const isDirty = git('status', '--porcelain', '--untracked-files=no', '--', 'src', 'bin').trim() !== '';
  return git('rev-parse', '--short=12', 'HEAD').trim() + (isDirty ? '-dirty' : '');
}
