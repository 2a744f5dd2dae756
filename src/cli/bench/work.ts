// Owns what a model's work is bound by: bytes that a step reads, products that a token takes, and the least time of both.
import { z } from 'zod';
import { readModelConfig } from '../../engine/models/registry.ts';
import type { GgufFile } from '../../files/weights-file.ts';
import type { Roofline } from './roofline.ts';

export const workSchema = z.object({
  /** Of the matrices that every step reads once, in the file's format. */
  weightBytes: z.number(),
  /** Elements of the layers' matrices: each is one multiply-add per token. */
  layerElements: z.number(),
  /** Those of the head, multiplied only where a token is wanted. */
  headElements: z.number(),
  /** Keys and values of one position, in 16 bits. */
  kvBytesPerToken: z.number(),
  /** Weights are blocks of integers, multiplied with 8-bit activations. */
  isQuantised: z.boolean(),
});
export type ModelWork = z.infer<typeof workSchema>;

const FLOAT_DTYPES = new Set(['F32', 'F16', 'BF16']);

export async function modelWork(file: GgufFile): Promise<ModelWork> {
  const config = await readModelConfig(file);
  const matrices = [...file.tensors.values()].filter(({ shape }) => shape.length === 2);
  const isTied = !file.tensors.has('output.weight');
  const isHead = (name: string): boolean => name === (isTied ? 'token_embd.weight' : 'output.weight');
  // An embedding of its own is read by rows: next to nothing.
  const read = matrices.filter(({ name }) => isHead(name) || name !== 'token_embd.weight');
  const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0);
  const layers = read.filter(({ name }) => !isHead(name));
  return {
    weightBytes: sum(read.map(({ numBytes }) => numBytes)),
    layerElements: sum(layers.map(({ numElements }) => numElements)),
    headElements: sum(read.filter(({ name }) => isHead(name)).map(({ numElements }) => numElements)),
    kvBytesPerToken: config.layers.length * config.numKvHeads * config.headDim * 2 * 2,
    isQuantised: layers.some(({ dtype }) => !FLOAT_DTYPES.has(dtype)),
  };
}

/** A load in its steady state. */
export const boundedLoadSchema = z.object({
  /** Sequences that share the reading of the weights. */
  concurrency: z.number(),
  /** Prompt tokens that are computed per request. */
  numPrompt: z.number(),
  numOutput: z.number(),
  /** Positions that a decoding token looks back on, on average. */
  meanContext: z.number(),
});
export type BoundedLoad = z.infer<typeof boundedLoadSchema>;

export interface Bounds {
  /** Output tokens per second (prompt tokens, where one output is asked for), if nothing but products took time, */
  readonly product: number;
  /** or nothing but reading weights and cache. */
  readonly memory: number;
}

/**
 * Attention's own products, activations, sampling, and everything outside the engine are left out: no system reaches
 * these bounds, and the share reached compares systems and machines.
 */
export function boundsOf(work: ModelWork, load: BoundedLoad, roofline: Roofline): Bounds {
  const { numPrompt, numOutput } = load;
  const operations = 2 * (work.layerElements * (numPrompt + numOutput - 1) + work.headElements * numOutput);
  const operationsPerS = (work.isQuantised ? roofline.int8Gops : (roofline.bf16Gflops ?? roofline.f32Gflops)) * 1e9;
  const numDecodes = numOutput - 1;
  // A lone prompt reads the weights once, in one pass; among others it rides along with their decodes.
  const numReads = load.concurrency === 1 ? numOutput : numDecodes / load.concurrency;
  const bytes = numReads * work.weightBytes + numDecodes * load.meanContext * work.kvBytesPerToken;
  const tokens = numOutput > 1 ? numOutput : numPrompt;
  return {
    product: (tokens * operationsPerS) / operations,
    memory: (tokens * roofline.memoryReadGBs * 1e9) / bytes,
  };
}
