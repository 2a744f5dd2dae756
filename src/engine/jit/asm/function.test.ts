// Whole functions: jumps short and near, constants, saved registers, and code that really runs.
import { expect, test } from 'vitest';
import { koffi } from '../../ffi/koffi.ts';
import { cpuFeatures, parseCpuFlags, supportedIsas } from '../cpu-features.ts';
import { canExecute, loadCode } from './exec-memory.ts';
import { emitFunction } from './function.ts';
import { gnuAssemble } from './testing/gnu-as.ts';
import { mem, ripMem } from './operands.ts';
import { r12, r32, rax, rbx, rcx, rdi, rsi, xmm, ymm } from './registers.ts';
import { assemblyText, listing } from './text.ts';

/** int sum(const int *values /-rdi-/, int64_t count /-rsi-/): adds, one by one. */
const sumFunction = (fillBytes: number) =>
  emitFunction('sum', 2, (a, f) => {
    a.mov(rax, 0);
    a.mov(rbx, rsi);
    const loop = a.label('loop');
    a.align(16);
    a.bind(loop);
    a.sub(rbx, 1);
    a.jl(f.exit);
    for (let i = 0; i < fillBytes; i += 3) a.mov(rcx, rbx);
    a.add(r32(rax), mem(rdi, 0, { index: rbx, scale: 4 }));
    a.jmp(loop);
  });

test.each([0, 90, 96, 102, 108, 114, 120, 126, 150, 600])(
  'jumps over %i bytes take the form that GNU as takes',
  (fill) => {
    const code = sumFunction(fill);
    expect(code.bytes).toEqual(gnuAssemble(assemblyText(code)));
  },
);

test('emitted code runs, and gives back the registers that it saved', () => {
  expect(canExecute()).toEqual({ ok: true });
  const code = loadCode([sumFunction(0), sumFunction(600)]);
  try {
    for (const [index, address] of code.addresses.entries()) {
      const sum = koffi.decode(BigInt(address), koffi.proto(`int xllm_test_sum_${index}(const int *, int64_t)`));
      expect(sum(Int32Array.of(1, 20, 300, -4000), 4)).toBe(-3679);
      expect(sum(Int32Array.of(), 0)).toBe(0);
    }
  } finally {
    code.free();
  }
});

test('constants and locals', () => {
  const code = emitFunction('scale', 1, (a, f) => {
    const local = f.local();
    a.mov(r12, local);
    a.vbroadcastss(xmm(1), a.f32(2.5));
    a.vmovups(ymm(2), ripMem(a.constant(Float32Array.from({ length: 8 }, (_, i) => i))));
    a.vmovss(xmm(0), mem(rdi));
    a.vmulss(xmm(0), xmm(0), xmm(1));
    a.vaddss(xmm(0), xmm(0), a.f32(2.5));
    a.vmovss(mem(rdi), xmm(0));
  });
  expect(code.bytes).toEqual(gnuAssemble(assemblyText(code)));
  expect(listing(code)).toContain('vzeroupper');
  const loaded = loadCode([code]);
  try {
    const scale = koffi.decode(BigInt(loaded.addresses[0] ?? 0), koffi.proto('void xllm_test_scale(float *)'));
    const value = Float32Array.of(3);
    scale(value);
    expect(value[0]).toBe(10);
  } finally {
    loaded.free();
  }
});

test('mistakes are named', () => {
  expect(() => emitFunction('f', 0, (a) => a.jmp(a.label('nowhere')))).toThrow(/nowhere_1 of f is never bound/);
  expect(() => emitFunction('f', 0, (a) => a.vaddps(ymm(0), xmm(1), ymm(2)))).toThrow(/one width/);
  expect(() => emitFunction('f', 0, (a) => a.add(mem(rax), 1))).toThrow(/sized/);
});

test('cpu features come from the flags line', () => {
  expect(supportedIsas(parseCpuFlags('flags\t\t: fpu avx2 fma f16c\n'))).toEqual(['avx2']);
  const avx512 = parseCpuFlags('flags : avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16\n');
  expect(supportedIsas(avx512)).toEqual(['avx512', 'avx2']);
  expect(avx512.avx512Bf16 && avx512.avx512Vnni).toBe(true);
  expect(supportedIsas(parseCpuFlags(''))).toEqual([]);
  expect(Object.keys(cpuFeatures()).length).toBeGreaterThan(0);
});
