// Owns which kernels a process runs: chosen by what was asked for, what the machine allows and what the model takes.
import { XllmError } from '../../common/errors.ts';
import { canExecute } from '../jit/asm/exec-memory.ts';
import { cpuFeatures, type Isa, supportedIsas } from '../jit/cpu-features.ts';

/** `auto`: the best emitted kernels that this machine can run, else ggml. `ggml`: no emitted code at all. */
export type Kernels = 'auto' | Isa | 'ggml';

export interface KernelChoice {
  /** What runs. */
  readonly kernels: Isa | 'ggml';
  /** Why, for the start-up summary. */
  readonly reason: string;
}

/**
 * `modelObstacle`: why emitted kernels cannot run the model; null: they can. Throws XllmError native_unavailable when a
 * named instruction set cannot run here.
 */
export function chooseKernels(wanted: Kernels, modelObstacle: string | null): KernelChoice {
  if (wanted === 'ggml') return { kernels: 'ggml', reason: 'asked for' };
  // Without VNNI the 512-bit products have no instruction for their sums.
  const usable = supportedIsas().filter((isa) => isa !== 'avx512' || cpuFeatures().avx512Vnni);
  const isa = wanted === 'auto' ? usable[0] : usable.find((each) => each === wanted);
  const obstacle = isa ? (modelObstacle ?? executionObstacle()) : `this CPU lacks ${names[wanted] ?? wanted}`;
  if (isa && !obstacle) return { kernels: isa, reason: wanted === 'auto' ? 'best that this CPU runs' : 'asked for' };
  if (wanted === 'auto') return { kernels: 'ggml', reason: obstacle ?? '' };
  throw new XllmError('native_unavailable', `--kernels ${wanted}: ${obstacle}; use --kernels auto or ggml`);
}

const names: Readonly<Partial<Record<string, string>>> = { auto: 'AVX2', avx2: 'AVX2', avx512: 'AVX-512 with VNNI' };

function executionObstacle(): string | null {
  const probe = canExecute();
  return probe.ok ? null : probe.reason;
}
