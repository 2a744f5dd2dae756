// Owns what this CPU can do, as far as kernels care.
import { readFileSync } from 'node:fs';

export interface CpuFeatures {
  readonly avx2: boolean;
  readonly fma: boolean;
  readonly f16c: boolean;
  readonly avx512f: boolean;
  readonly avx512bw: boolean;
  readonly avx512dq: boolean;
  readonly avx512vl: boolean;
  readonly avx512Vnni: boolean;
  readonly avx512Bf16: boolean;
}

/** Instruction sets that kernels come in: AVX2 with FMA and F16C, or AVX-512 F, BW, DQ, VL. */
export type Isa = 'avx2' | 'avx512';

/** Reads the flags of Linux's /proc/cpuinfo, which leave out what the system has not enabled. */
export function parseCpuFlags(cpuinfo: string): CpuFeatures {
  const flags = new Set(/^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.trim().split(/\s+/));
  const has = (flag: string) => flags.has(flag);
  return {
    avx2: has('avx2'),
    fma: has('fma'),
    f16c: has('f16c'),
    avx512f: has('avx512f'),
    avx512bw: has('avx512bw'),
    avx512dq: has('avx512dq'),
    avx512vl: has('avx512vl'),
    avx512Vnni: has('avx512_vnni'),
    avx512Bf16: has('avx512_bf16'),
  };
}

let features: CpuFeatures | undefined;

/** Features of this machine; all false where /proc/cpuinfo does not tell (other systems than Linux on x86). */
export function cpuFeatures(): CpuFeatures {
  features ??= parseCpuFlags(process.platform === 'linux' ? readFileSync('/proc/cpuinfo', 'latin1') : '');
  return features;
}

/** Instruction sets that run here, best first. */
export function supportedIsas(cpu: CpuFeatures = cpuFeatures()): Isa[] {
  const avx2 = cpu.avx2 && cpu.fma && cpu.f16c;
  const avx512 = avx2 && cpu.avx512f && cpu.avx512bw && cpu.avx512dq && cpu.avx512vl;
  return [...(avx512 ? (['avx512'] as const) : []), ...(avx2 ? (['avx2'] as const) : [])];
}
