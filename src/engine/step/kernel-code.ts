// Owns which emitted kernels a process runs: chosen by what was asked for and what the machine allows, loaded once.
import { XllmError } from '../../common/errors.ts';
import type { Address } from '../ffi/koffi.ts';
import { canExecute, loadCode } from '../jit/asm/exec-memory.ts';
import { type Isa, supportedIsas } from '../jit/cpu-features.ts';
import type { KvShape } from '../jit/kernels/abi.ts';
import { emitAttention } from '../jit/kernels/attention/node.ts';
import { emitKvWrite } from '../jit/kernels/kv-write.ts';
import { emitSampler } from '../jit/kernels/sampler.ts';

/** `auto`: the best emitted kernels that this machine can run, else ggml. `ggml`: no emitted code at all. */
export type Kernels = 'auto' | Isa | 'ggml';

export interface KernelChoice {
  /** What runs. */
  readonly kernels: Isa | 'ggml';
  /** Why, for the start-up summary. */
  readonly reason: string;
}

/** Throws XllmError native_unavailable when a named instruction set cannot run here. */
export function chooseKernels(wanted: Kernels, shapes: readonly KvShape[]): KernelChoice {
  if (wanted === 'ggml') return { kernels: 'ggml', reason: 'asked for' };
  const [best, ...others] = supportedIsas();
  const isa = wanted === 'auto' ? best : [best, ...others].find((each) => each === wanted);
  const obstacle = isa
    ? (shapeObstacle(shapes) ?? executionObstacle())
    : `this CPU lacks ${wanted === 'auto' ? 'AVX2' : wanted}`;
  if (isa && !obstacle) return { kernels: isa, reason: wanted === 'auto' ? 'best that this CPU runs' : 'asked for' };
  if (wanted === 'auto') return { kernels: 'ggml', reason: obstacle ?? '' };
  throw new XllmError('native_unavailable', `--kernels ${wanted}: ${obstacle}; use --kernels auto or ggml`);
}

function shapeObstacle(shapes: readonly KvShape[]): string | null {
  const shape = shapes.find(({ headDim }) => headDim % 16 !== 0 || headDim > 256);
  return shape ? `the kernels take heads of 16 to 256 elements in steps of 16, these have ${shape.headDim}` : null;
}

let probe: ReturnType<typeof canExecute> | undefined;

function executionObstacle(): string | null {
  probe ??= canExecute();
  return probe.ok ? null : probe.reason;
}

export interface KernelCode {
  /** By cache group. */
  readonly kvWrite: readonly Address[];
  readonly attention: readonly Address[];
  readonly sampler: Address;
  free(): void;
}

export function loadKernels(isa: Isa, shapes: readonly KvShape[]): KernelCode {
  const codes = [
    ...shapes.map((shape) => emitKvWrite(shape, isa)),
    ...shapes.map((shape) => emitAttention(shape, isa)),
    emitSampler(isa),
  ];
  const code = loadCode(codes);
  const kvWrite = code.addresses.slice(0, shapes.length);
  const attention = code.addresses.slice(shapes.length, 2 * shapes.length);
  return { kvWrite, attention, sampler: code.addresses.at(-1) ?? 0, free: () => code.free() };
}
