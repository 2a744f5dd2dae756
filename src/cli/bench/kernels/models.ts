// Owns the shapes that kernels are measured on: of the default model and two larger ones.
import type { PackedFormat } from '../../../engine/jit/kernels/product/layout.ts';

export interface MeasuredModel {
  readonly name: string;
  readonly formats: readonly PackedFormat[];
  readonly hiddenSize: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly ffnSize: number;
  readonly ropePairs: 'adjacent' | 'halves';
  /** Queries and keys are normed before they rotate. */
  readonly hasHeadNorms: boolean;
}

export const measuredModels: readonly MeasuredModel[] = [
  {
    name: 'smollm2-135m',
    formats: ['Q4_1'],
    hiddenSize: 576,
    numHeads: 9,
    numKvHeads: 3,
    headDim: 64,
    ffnSize: 1536,
    ropePairs: 'adjacent',
    hasHeadNorms: false,
  },
  {
    name: 'qwen3-0.6b',
    formats: ['Q4_0', 'Q8_0'],
    hiddenSize: 1024,
    numHeads: 16,
    numKvHeads: 8,
    headDim: 128,
    ffnSize: 3072,
    ropePairs: 'halves',
    hasHeadNorms: true,
  },
  {
    name: 'qwen3-1.7b',
    formats: ['Q8_0'],
    hiddenSize: 2048,
    numHeads: 16,
    numKvHeads: 8,
    headDim: 128,
    ffnSize: 6144,
    ropePairs: 'halves',
    hasHeadNorms: true,
  },
];
