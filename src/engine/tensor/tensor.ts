// Owns the handle of a tensor in a graph: row-major shape and strides. ggml's reversed order appears here and nowhere else.
import type { GgmlTensor } from '../ffi/ggml.ts';
import { bytesOf, type TensorType, tensorTypes } from './dtype.ts';

export interface Tensor {
  readonly address: GgmlTensor;
  readonly type: TensorType;
  /** Outermost first; 1 to 4 dimensions. */
  readonly shape: readonly number[];
  /** Bytes between neighbours along each dimension; the last is that of one element, or of one block. */
  readonly strides: readonly number[];
}

export type Dims4 = readonly [number, number, number, number];

/** Dimensions in ggml's order: innermost first, padded with ones. */
export function ggmlDims(shape: readonly number[]): Dims4 {
  const at = (i: number) => shape[shape.length - 1 - i] ?? 1;
  return [at(0), at(1), at(2), at(3)];
}

/** Byte strides of ggml's dimensions 1 to 3; missing outer ones repeat the outermost extent. */
export function ggmlStrides(shape: readonly number[], strides: readonly number[]): [number, number, number] {
  const n = shape.length;
  const at = (i: number) => strides[n - 1 - i] ?? (strides[0] ?? 0) * (shape[0] ?? 1);
  return [at(1), at(2), at(3)];
}

/** Strides of a row-major tensor without gaps. */
export function denseStrides(type: TensorType, shape: readonly number[]): number[] {
  const strides = shape.map(() => 0);
  let stride = bytesOf(type, shape.at(-1) ?? 1);
  for (let i = shape.length - 2; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i] ?? 1;
  }
  strides[shape.length - 1] = tensorTypes[type].blockBytes;
  return strides;
}

export function numElements(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

type Pattern = readonly [Tensor, ...(string | number)[]];

/**
 * Binds names to dimensions: `match({ x: [x, 'T', 'D'], w: [w, 'N', 'D'] })` gives { T, D, N }, or throws naming all
 * shapes. A number in a pattern must be met exactly.
 */
export function match(patterns: Readonly<Record<string, Pattern>>): Readonly<Record<string, number>> {
  const bound: Record<string, number> = {};
  for (const [tensor, ...dims] of Object.values(patterns)) {
    const fits =
      tensor.shape.length === dims.length &&
      dims.every((dim, i) => {
        const actual = tensor.shape[i];
        if (typeof dim === 'string' && bound[dim] === undefined && actual !== undefined) bound[dim] = actual;
        return actual === (typeof dim === 'number' ? dim : bound[dim]);
      });
    if (!fits) throw new Error(describeMismatch(patterns));
  }
  return bound;
}

function describeMismatch(patterns: Readonly<Record<string, Pattern>>): string {
  const parts = Object.entries(patterns).map(
    ([name, [tensor, ...dims]]) => `${name} [${dims.join(', ')}] is ${tensor.type} [${tensor.shape.join(', ')}]`,
  );
  return `tensor shapes do not fit: ${parts.join('; ')}`;
}
