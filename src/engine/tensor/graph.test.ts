// Operations against plain loops, and what batch invariance rests on: which of them depend on the number of rows.
import { afterAll, describe, expect, it } from 'vitest';
import { openGgml } from '../ffi/ggml.ts';
import { viewMemory } from '../ffi/koffi.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import { ComputePool } from './compute.ts';
import { bytesOf, differsAlone, type TensorType, tensorTypes } from './dtype.ts';
import { Graph } from './graph.ts';
import {
  columns,
  concatRows,
  dense,
  flashAttention,
  gated,
  getRows,
  multiply,
  rmsNorm,
  rope,
  setRows,
  splitHeads,
} from './ops.ts';
import { numElements, type Tensor } from './tensor.ts';

const ggml = openGgml();
const pool = new ComputePool(ggml, { numThreads: 2, polls: false });
const memories: NativeMemory[] = [];
afterAll(() => {
  pool.close();
  for (const memory of memories) memory.free();
});

function native(bytes: Uint8Array): number {
  const memory = allocateNative(Math.max(1, bytes.length));
  memories.push(memory);
  new Uint8Array(memory.buffer).set(bytes);
  return memory.address;
}

const bytesFrom = (array: Float32Array | Int32Array | Uint16Array) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

let state = 1;
const random = () => {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return state / 2 ** 31 - 1;
};
const randoms = (count: number) => Float32Array.from({ length: count }, random);

/** Runs what `build` adds, at two places in memory, and returns its result. */
function run(build: (g: Graph) => Tensor): Float32Array {
  const g = new Graph(ggml, 64);
  const out = build(g);
  const placed = g.finish([out]);
  const memory = allocateNative(2 * placed.numBytes + 128);
  const read = (base: number) => {
    placed.place(base);
    pool.runSync(g.handle);
    return new Float32Array(viewMemory(placed.dataOf(out), 4 * numElements(out.shape))).slice();
  };
  const first = read(memory.address);
  const moved = read(memory.address + Math.ceil((placed.numBytes + 1) / 64) * 64);
  placed.free();
  memory.free();
  expect(moved).toEqual(first);
  return first;
}

const floats = (g: Graph, shape: number[], values: Float32Array) => g.leaf('F32', shape, native(bytesFrom(values)));
const ints = (g: Graph, values: number[]) => g.leaf('I32', [values.length], native(bytesFrom(Int32Array.from(values))));

function expectClose(actual: Float32Array, expected: readonly number[], tolerance = 1e-5): void {
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(Math.abs(actual[i]! - value)).toBeLessThan(tolerance);
}

describe('operations', () => {
  it('multiplies', () => {
    const [x, w] = [randoms(3 * 8), randoms(5 * 8)];
    const expected = Array.from({ length: 15 }, (_, i) => {
      const [t, n] = [Math.floor(i / 5), i % 5];
      return Array.from({ length: 8 }, (__, k) => x[t * 8 + k]! * w[n * 8 + k]!).reduce((a, b) => a + b);
    });
    expectClose(
      run((g) => multiply(g, floats(g, [3, 8], x), floats(g, [5, 8], w))),
      expected,
    );
  });

  it('normalises the heads of a view', () => {
    const x = randoms(2 * 12);
    const w = randoms(4);
    // Columns 4 to 11 of each row, as two heads of 4.
    const expected = [0, 1].flatMap((t) =>
      [0, 1].flatMap((h) => {
        const head = Array.from(x.subarray(t * 12 + 4 + h * 4, t * 12 + 8 + h * 4));
        const rms = Math.sqrt(head.reduce((sum, v) => sum + v * v, 0) / 4 + 1e-6);
        return head.map((v, i) => (v / rms) * w[i]!);
      }),
    );
    const result = run((g) =>
      rmsNorm(g, splitHeads(g, columns(g, floats(g, [2, 12], x), 4, 8), 2), floats(g, [4], w), 1e-6),
    );
    expectClose(result, expected);
  });

  it.each(['adjacent', 'halves'] as const)('rotates %s pairs', (pairs) => {
    const x = randoms(2 * 8);
    const factors = Float32Array.of(1, 2, 4, 8);
    const positions = [3, 1_000];
    const expected = [...x];
    for (const [t, position] of positions.entries()) {
      for (let pair = 0; pair < 4; pair++) {
        const angle = position / (100 ** (pair / 4) * factors[pair]!);
        const [a, b] = pairs === 'adjacent' ? [2 * pair, 2 * pair + 1] : [pair, pair + 4];
        const [u, v] = [x[t * 8 + a]!, x[t * 8 + b]!];
        expected[t * 8 + a] = 1.5 * (u * Math.cos(angle) - v * Math.sin(angle));
        expected[t * 8 + b] = 1.5 * (u * Math.sin(angle) + v * Math.cos(angle));
      }
    }
    const result = run((g) =>
      rope(g, splitHeads(g, floats(g, [2, 8], x), 1), ints(g, positions), {
        pairs,
        base: 100,
        attnFactor: 1.5,
        frequencyFactors: floats(g, [4], factors),
      }),
    );
    expectClose(result, expected, 1e-3);
  });

  it.each(['silu', 'gelu_tanh', 'gelu_tanh_f32'] as const)('gates with %s, side by side or apart', (activation) => {
    const both = randoms(3 * 64).map((v) => 4 * v);
    const act = (v: number) =>
      activation === 'silu'
        ? v / (1 + Math.exp(-v))
        : 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)));
    const expected = Array.from({ length: 96 }, (_, i) => {
      const at = Math.floor(i / 32) * 64 + (i % 32);
      return act(both[at]!) * both[at + 32]!;
    });
    const tolerance = activation === 'gelu_tanh' ? 2e-2 : 1e-5;
    expectClose(
      run((g) => gated(g, activation, floats(g, [3, 64], both), null)),
      expected,
      tolerance,
    );
    const apart = run((g) => {
      const x = floats(g, [3, 64], both);
      return gated(g, activation, dense(g, columns(g, x, 0, 32)), dense(g, columns(g, x, 32, 32)));
    });
    expectClose(apart, expected, tolerance);
  });

  it('gathers, scatters and joins rows', () => {
    const x = randoms(4 * 3);
    const row = (i: number) => [...x.subarray(3 * i, 3 * i + 3)];
    expectClose(
      run((g) => {
        const a = floats(g, [4, 3], x);
        return concatRows(g, getRows(g, a, ints(g, [2, 0])), getRows(g, a, ints(g, [3])));
      }),
      [row(2), row(0), row(3)].flat(),
    );
    const target = native(new Uint8Array(4 * 3 * 4));
    run((g) => {
      const table = g.leaf('F32', [4, 3], target);
      return getRows(g, setRows(g, table, floats(g, [2, 3], x.slice(0, 6)), ints(g, [3, 1])), ints(g, [0]));
    });
    expect([...new Float32Array(viewMemory(target, 48))]).toEqual([0, 0, 0, ...row(1), 0, 0, 0, ...row(0)]);
  });

  it('attends under a mask', () => {
    const [S, H, G, N, L, K] = [2, 4, 2, 3, 32, 16];
    const [q, k, v] = [randoms(S * H * N * K), randoms(S * G * L * K), randoms(S * G * L * K)];
    const visible = (n: number) => 5 + n;
    const mask = new Uint16Array(S * N * L).fill(0xfc00);
    for (let s = 0; s < S; s++) for (let n = 0; n < N; n++) mask.fill(0, (s * N + n) * L, (s * N + n) * L + visible(n));
    const expected: number[] = [];
    for (let s = 0; s < S; s++) {
      for (let n = 0; n < N; n++) {
        for (let h = 0; h < H; h++) {
          const kv = (s * G + Math.floor(h / (H / G))) * L;
          const weights = Array.from({ length: visible(n) }, (_, p) => {
            let dot = 0;
            for (let i = 0; i < K; i++) dot += q[((s * H + h) * N + n) * K + i]! * k[(kv + p) * K + i]!;
            return Math.exp(0.25 * dot);
          });
          const total = weights.reduce((a, b) => a + b);
          for (let i = 0; i < K; i++) {
            expected.push(weights.reduce((sum, weight, p) => sum + weight * v[(kv + p) * K + i]!, 0) / total);
          }
        }
      }
    }
    const result = run((g) =>
      flashAttention(
        g,
        floats(g, [S, H, N, K], q),
        floats(g, [S, G, L, K], k),
        floats(g, [S, G, L, K], v),
        g.leaf('F16', [S, 1, N, L], native(bytesFrom(mask))),
        0.25,
      ),
    );
    expectClose(result, expected, 1e-4);
  });

  it('refuses shapes that ggml would abort on', () => {
    const g = new Graph(ggml, 16);
    const x = floats(g, [2, 8], randoms(16));
    expect(() => multiply(g, x, floats(g, [4, 7], randoms(28)))).toThrow('do not fit');
    expect(() => columns(g, x, 4, 8)).toThrow('no columns');
    expect(() => splitHeads(g, x, 3)).toThrow('8 features are not 3 heads');
    g.free();
  });
});

describe('batch invariance of products', () => {
  const weightTypes = (Object.keys(tensorTypes) as TensorType[]).filter((type) => type !== 'I32' && type !== 'I8');
  const numRows = 70;

  it.each(weightTypes)('%s', (type) => {
    const [N, K] = [96, 512];
    const values = randoms(N * K);
    const quantised = new Uint8Array(bytesOf(type, N * K));
    if (type === 'F32') quantised.set(bytesFrom(values));
    else ggml.quantizeRows(tensorTypes[type].ggmlType, values, quantised, N, K);
    const address = native(quantised);
    const x = randoms(numRows * K);
    const product = (rows: number) =>
      run((g) => multiply(g, floats(g, [rows, K], x.slice(0, rows * K)), g.leaf(type, [N, K], address)));
    const all = product(numRows);
    for (const rows of [2, 3, 4, 5, 8, 17, 64]) expect(product(rows)).toEqual(all.slice(0, rows * N));
    // The deterministic setting pads those to two rows.
    if (!differsAlone(type)) expect(product(1)).toEqual(all.slice(0, N));
  });
});
