// The emitted exp and ln against the twin's, in every bit, over values that tokens hardly ever show.
import { expect, test } from 'vitest';
import { exp32, ln32, minusLn1m, uniform32 } from '../../sampler/math.ref.ts';
import { allocateNative } from '../../ffi/memory.ts';
import { koffi } from '../../ffi/koffi.ts';
import { canExecute, loadCode } from '../asm/exec-memory.ts';
import { emitFunction } from '../asm/function.ts';
import { mem } from '../asm/operands.ts';
import { rdi, rsi, type Vec } from '../asm/registers.ts';
import { type Isa, supportedIsas } from '../cpu-features.ts';
import { interpret } from '../testing/interpreter.ts';
import { Simd } from './sampler-vector.ts';

const kernelType = koffi.proto('void xllm_test_map(uintptr_t values, uintptr_t end)');
type Operation = (simd: Simd, x: Vec, temps: readonly [Vec, Vec, Vec, Vec, Vec]) => void;

/** `void fn(float *values, float *end)`: applies the operation in place. */
const emitMap = (isa: Isa, operation: Operation) =>
  emitFunction('map', 2, (a) => {
    const simd = new Simd(a, isa);
    const temps = [1, 2, 3, 4, 5].map((id) => simd.v(id)) as [Vec, Vec, Vec, Vec, Vec];
    const next = a.here('next');
    a.vmovups(simd.v(0), mem(rdi));
    operation(simd, simd.v(0), temps);
    a.vmovups(mem(rdi), simd.v(0));
    a.add(rdi, simd.bytes);
    a.cmp(rdi, rsi);
    a.jb(next);
  });

function apply(isa: Isa, how: 'native' | 'interpreted', operation: Operation, values: Float32Array): Float32Array {
  const code = emitMap(isa, operation);
  const memory = allocateNative(values.byteLength);
  try {
    const view = new Float32Array(memory.buffer, 0, values.length);
    view.set(values);
    const args = [memory.address, memory.address + values.byteLength] as const;
    if (how === 'interpreted') interpret(code, args, [{ address: memory.address, view: new DataView(memory.buffer) }]);
    else {
      const loaded = loadCode([code]);
      const kernel = koffi.decode(BigInt(loaded.addresses[0]!), kernelType) as (...args: number[]) => void;
      kernel(...args);
      loaded.free();
    }
    return view.slice();
  } finally {
    memory.free();
  }
}

const operations: Readonly<
  Record<string, { emit: Operation; twin: (x: number) => number; input: (i: number, n: number) => number }>
> = {
  'exp(t)': {
    emit: (simd, x, [t0, t1, t2]) => simd.exp(x, [t0, t1, t2]),
    twin: exp32,
    input: (i, n) => (i === 0 ? -Infinity : (-90 * (i - 1)) / n),
  },
  'ln(x)': {
    emit: (simd, x, [t0, t1, t2, t3]) => simd.ln(x, [t0, t1, t2, t3]),
    twin: ln32,
    input: (i, n) => 2 ** -100 * 2 ** ((200 * i) / n),
  },
  'ln(1 - v)': {
    emit: (simd, x, [t0, t1, t2, t3, t4]) => simd.ln1m(x, [t0, t1, t2, t3], t4),
    twin: (v) => -minusLn1m(v),
    input: (i) => uniform32(Math.imul(i, 0x9e3779b9) >>> (i % 32)),
  },
};

const probe = canExecute();
const isas = probe.ok ? supportedIsas() : [];
const hows = ['native', 'interpreted'] as const;

for (const isa of ['avx2', 'avx512'] as const)
  for (const how of hows)
    for (const [name, { emit, twin, input }] of Object.entries(operations))
      test.skipIf(how === 'native' && !isas.includes(isa))(`${name}, ${isa}, ${how}`, () => {
        const n = how === 'native' ? 1 << 17 : 1 << 11;
        const values = Float32Array.from({ length: n }, (_, i) => input(i, n));
        const ours = new Int32Array(apply(isa, how, emit, values).buffer);
        expect(ours).toEqual(new Int32Array(values.map(twin).buffer));
      });
