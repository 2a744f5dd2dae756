// Owns the proof that tensors are encoded as ggml does: the same bytes as its own quantisers.
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { koffi } from '../../src/engine/ffi/koffi.ts';
import { dtypes } from '../../src/files/dtype.ts';
import { encodedTensor, type WritableDType } from '../../src/files/encode-tensor.ts';

const platformPackage = `@node-llama-cpp/${process.platform}-${process.arch}`;

/** ggml's own encoder, over `values` as rows of `rowElements`. */
function ggmlEncode(dtype: WritableDType, values: Float32Array, rowElements: number): Uint8Array {
  const folder = fileURLToPath(new URL('../', import.meta.resolve(platformPackage)));
  const library = koffi.load(`${folder}bins/${process.platform}-${process.arch}/libggml-base.so`);
  const quantize = library.func(
    'size_t ggml_quantize_chunk(int type, const float *src, void *dst, int64_t start, int64_t nrows, int64_t n_per_row, const float *imatrix)',
  );
  const target = Buffer.alloc((values.length / dtypes[dtype].blockElements) * dtypes[dtype].blockBytes);
  quantize(dtypes[dtype].ggmlType, values, target, 0, values.length / rowElements, rowElements, null);
  return new Uint8Array(target);
}

/** Normal-like, with whole blocks of zeros, of one sign and of large values. */
function sampleValues(length: number): Float32Array {
  let state = 7;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return Float32Array.from({ length }, (_, i) => {
    const block = Math.floor(i / 32) % 8;
    const value = uniform() + uniform() + uniform() - 1.5;
    if (block === 0) return 0;
    if (block === 1) return Math.abs(value);
    return block === 2 ? value * 1e4 : Math.round(value * 64) / 64;
  });
}

describe('encodedTensor', () => {
  it.each(['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1'] as const)('%s gives the bytes that ggml gives', (dtype) => {
    const values = sampleValues(64 * 1024);
    expect(Buffer.compare(encodedTensor(dtype, values), ggmlEncode(dtype, values, 1024))).toBe(0);
  });
});
