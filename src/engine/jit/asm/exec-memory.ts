// Owns executable memory: written while writable, then made executable, never both (W^X).
import { invariant } from '../../../common/errors.ts';
import { type Address, koffi, viewMemory } from '../../ffi/koffi.ts';
import { MAP, mmap, mprotect, munmap, PAGE_BYTES, PROT, SystemError } from '../../ffi/libc.ts';
import { emitFunction } from './function.ts';
import type { MachineCode } from './program.ts';
import { r32, rax } from './registers.ts';

/** Code that can be called, until it is freed. */
export interface ExecutableCode {
  /** Entry points in the order of the codes given. */
  readonly addresses: readonly Address[];
  readonly numBytes: number;
  /** Unmaps the code: nothing may run in it or hold its addresses. */
  free(): void;
}

/** Code, and where it was loaded. */
export interface PlacedCode {
  readonly code: MachineCode;
  readonly address: Address;
}

/** Functions start at cache lines, which the constants behind them also rely on. */
const ALIGNMENT = 64;
const roundUp = (value: number, unit: number) => Math.ceil(value / unit) * unit;

/** Places finished code in one executable mapping. Throws SystemError when the system refuses. */
export function loadCode(codes: readonly MachineCode[]): ExecutableCode {
  let end = 0;
  const offsets = codes.map(({ bytes }) => {
    const offset = end;
    end = roundUp(end + bytes.length, ALIGNMENT);
    return offset;
  });
  const numBytes = roundUp(Math.max(end, 1), PAGE_BYTES);
  const base = mmap(numBytes, { prot: PROT.read | PROT.write, flags: MAP.private | MAP.anonymous });
  try {
    const view = new Uint8Array(viewMemory(base, numBytes));
    for (const [index, { bytes }] of codes.entries()) view.set(bytes, offsets[index]);
    mprotect(base, numBytes, PROT.read | PROT.exec);
  } catch (error) {
    munmap(base, numBytes);
    throw error;
  }
  return {
    addresses: offsets.map((offset) => base + offset),
    numBytes,
    free: () => munmap(base, numBytes),
  };
}

/** Whether emitted code can run in this process. */
export type ExecutionProbe = { readonly ok: true } | { readonly ok: false; readonly reason: string };

let probe: ExecutionProbe | undefined;

/** Asks once: writes a function of two instructions, makes it executable and calls it. */
export function canExecute(): ExecutionProbe {
  probe ??= tryExecuting();
  return probe;
}

function tryExecuting(): ExecutionProbe {
  if (process.arch !== 'x64')
    return { ok: false, reason: `the kernels are x86-64 code, this process is ${process.arch}` };
  if (process.platform !== 'linux')
    return { ok: false, reason: `executable memory is not set up on ${process.platform}` };
  const answer = 0x5eed;
  try {
    const code = loadCode([emitFunction('probe', 0, (a) => a.mov(r32(rax), answer))]);
    try {
      const [address] = code.addresses;
      invariant(address, 'the probe was not loaded');
      const call = koffi.decode(BigInt(address), koffi.proto('int xllm_probe()'));
      return call() === answer ? { ok: true } : { ok: false, reason: 'emitted code gave a wrong answer' };
    } finally {
      code.free();
    }
  } catch (error) {
    if (error instanceof SystemError)
      return { ok: false, reason: `the system refuses executable memory: ${error.message}` };
    throw error;
  }
}
