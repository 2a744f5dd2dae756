// Shapes: translation to ggml's order, strides, symbolic checks; formats against the library and the files' table.
import { expect, it } from 'vitest';
import { dtypes } from '../../files/dtype.ts';
import { openGgml } from '../ffi/ggml.ts';
import { bytesOf, isFloatType, type TensorType, tensorTypes } from './dtype.ts';
import { denseStrides, ggmlDims, ggmlStrides, match, type Tensor } from './tensor.ts';

const tensor = (shape: number[], type: TensorType = 'F32'): Tensor => ({
  address: 0,
  type,
  shape,
  strides: denseStrides(type, shape),
});

it('reverses dimensions for ggml', () => {
  expect(ggmlDims([2, 3, 5])).toEqual([5, 3, 2, 1]);
  expect(ggmlStrides([2, 3, 5], denseStrides('F32', [2, 3, 5]))).toEqual([20, 60, 120]);
  expect(ggmlStrides([7], denseStrides('F32', [7]))).toEqual([28, 28, 28]);
});

it('counts strides of block formats in blocks', () => {
  expect(denseStrides('Q4_1', [8, 64])).toEqual([40, 20]);
});

it('binds names to dimensions', () => {
  expect(match({ x: [tensor([3, 8]), 'T', 'D'], w: [tensor([5, 8]), 'N', 'D'] })).toEqual({ T: 3, D: 8, N: 5 });
  expect(match({ x: [tensor([3, 8]), 'T', 8] })).toEqual({ T: 3 });
});

it('names all shapes when they do not fit', () => {
  expect(() => match({ x: [tensor([3, 8]), 'T', 'D'], w: [tensor([5, 9]), 'N', 'D'] })).toThrow(
    'x [T, D] is F32 [3, 8]; w [N, D] is F32 [5, 9]',
  );
  expect(() => match({ x: [tensor([3, 8]), 'T'] })).toThrow('do not fit');
});

it.each(Object.keys(tensorTypes) as TensorType[])('%s has the size that ggml and the file table give it', (type) => {
  const ggml = openGgml();
  const { ggmlType, blockElements, blockBytes } = tensorTypes[type];
  expect(ggml.blockSize(ggmlType)).toBe(blockElements);
  expect(ggml.rowSize(ggmlType, 256 * blockElements)).toBe(256 * blockBytes);
  expect(bytesOf(type, 4 * blockElements)).toBe(4 * blockBytes);
  expect(dtypes[type]).toEqual({ ggmlType, blockElements, blockBytes });
});

it('knows the formats of one element a block', () => {
  expect((Object.keys(tensorTypes) as TensorType[]).filter(isFloatType)).toEqual(['F32', 'F16', 'BF16']);
});
