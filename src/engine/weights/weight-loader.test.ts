// Loading: stacked, converted, shifted, straight; and the formats that each policy asks for.
import { describe, expect, it } from 'vitest';
import type { TensorFiles, TensorInfo } from '../../files/weights-file.ts';
import { openGgml } from '../ffi/ggml.ts';
import { viewMemory } from '../ffi/koffi.ts';
import { tensorTypes } from '../tensor/dtype.ts';
import { targetType } from './dtype-policy.ts';
import { loadWeights } from './weight-loader.ts';
import type { WeightRequest } from './weight-plan.ts';

const ggml = openGgml();

/** Tensors in memory, behind the interface of files. */
function filesOf(contents: Readonly<Record<string, Uint8Array>>): TensorFiles {
  return {
    files: [],
    tensors: new Map(),
    read: (tensor, target, offset = 0) => {
      const bytes = contents[typeof tensor === 'string' ? tensor : tensor.name]!;
      target.set(bytes.subarray(offset, offset + target.length));
      return Promise.resolve();
    },
    close: () => {},
  };
}

const info = (name: string, dtype: TensorInfo['dtype'], shape: number[]): TensorInfo => ({
  name,
  dtype,
  shape,
  numElements: shape.reduce((a, b) => a * b, 1),
  numBytes: 0,
  fileIndex: 0,
  byteOffset: 0,
});

const bytesFrom = (values: Float32Array) => new Uint8Array(values.buffer);
const values = (count: number, from = 0) => Float32Array.from({ length: count }, (_, i) => (from + i) / 8);

async function load(
  contents: Readonly<Record<string, Uint8Array>>,
  request: Partial<WeightRequest>,
): Promise<Uint8Array> {
  const full = { target: 'F32', add: 0, packing: null, sources: [], ...request } as WeightRequest;
  const loaded = await loadWeights(ggml, filesOf(contents), [full]);
  const [{ address, shape, type }] = loaded.weights as [(typeof loaded.weights)[0]];
  const { blockElements, blockBytes } = tensorTypes[type];
  const numBytes = (shape.reduce((a, b) => a * b, 1) / blockElements) * blockBytes;
  const copy = new Uint8Array(viewMemory(address, numBytes)).slice();
  loaded.free();
  return copy;
}

describe('loadWeights', () => {
  it('stacks tensors below each other', async () => {
    const [a, b] = [values(6), values(9, 100)];
    const sources = [info('a', 'F32', [2, 3]), info('b', 'F32', [3, 3])];
    const loaded = await load({ a: bytesFrom(a), b: bytesFrom(b) }, { sources });
    expect(new Float32Array(loaded.buffer)).toEqual(Float32Array.of(...a, ...b));
  });

  it('widens BF16 and F16, and adds', async () => {
    const plain = values(40);
    for (const type of ['BF16', 'F16'] as const) {
      const narrow = new Uint8Array(80);
      ggml.quantizeRows(tensorTypes[type].ggmlType, plain, narrow, 1, 40);
      const loaded = await load({ a: narrow }, { sources: [info('a', type, [40])], add: 1 });
      expect(new Float32Array(loaded.buffer)).toEqual(plain.map((x) => x + 1));
    }
  });

  it('rounds to BF16', async () => {
    const loaded = await load({ a: bytesFrom(values(8)) }, { sources: [info('a', 'F32', [2, 4])], target: 'BF16' });
    const widened = new Float32Array(8);
    ggml.dequantizeRow(tensorTypes.BF16.ggmlType, loaded, widened);
    expect(widened).toEqual(values(8));
  });

  it('dequantises in pieces as in one', async () => {
    // More than the 1 MiB that is converted at a time, less than is left to threads.
    const [rows, columns] = [1_000, 1_024];
    const packed = new Uint8Array((rows * columns * 34) / 32);
    const plain = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i));
    ggml.quantizeRows(tensorTypes.Q8_0.ggmlType, plain, packed, rows, columns);
    const loaded = await load({ a: packed }, { sources: [info('a', 'Q8_0', [rows, columns])] });
    const whole = new Float32Array(rows * columns);
    ggml.dequantizeRow(tensorTypes.Q8_0.ggmlType, packed, whole);
    expect(Buffer.compare(loaded, new Uint8Array(whole.buffer))).toBe(0);
  });

  it('frees its memory and passes the error on when a file fails', async () => {
    const files = { ...filesOf({}), read: () => Promise.reject(new Error('shrunk')) };
    const request = { sources: [info('a', 'F32', [4])], target: 'F32', add: 0, packing: null } as const;
    await expect(loadWeights(ggml, files, [request])).rejects.toThrow('shrunk');
  });
});

describe('targetType', () => {
  const matrix = (dtype: TensorInfo['dtype']) => info('m', dtype, [4, 256]);

  it('keeps files as they are unless asked otherwise', () => {
    expect(targetType(matrix('Q4_K'), 'auto')).toBe('Q4_K');
    expect(targetType(matrix('F16'), 'auto')).toBe('F16');
    expect(targetType(matrix('Q4_K'), 'float32')).toBe('F32');
    expect(targetType(matrix('F16'), 'bfloat16')).toBe('BF16');
    expect(targetType(matrix('Q8_0'), 'bfloat16')).toBe('Q8_0');
    expect(targetType(info('norm', 'BF16', [64]), 'auto')).toBe('F32');
  });

  it('refuses what is no weight', () => {
    expect(() => targetType(matrix('I32'), 'auto')).toThrow(/tensor m is I32; supported weight formats: F32, .*MXFP4/);
    expect(() => targetType(matrix('F8_E4M3'), 'auto')).toThrow('tensor m is F8_E4M3');
  });
});
