// Owns the options of `xllm bench kernels`.
import { z } from 'zod';
import { counts } from './step-options.ts';

export const benchKernelsSchema = z.strictObject({
  threads: z.number().int().min(1).optional().describe('Compute threads (default: all cores).'),
  only: z
    .array(z.string().min(1))
    .default([])
    .describe('Measure kernels whose line in the table has one of these texts in it (default: all).'),
  rows: counts('Rows of activations that products and row kernels are given.', '1,16,512'),
  rounds: z.number().int().min(1).default(10).describe('Least runs of each kernel; the best one counts.'),
  ggml: z.boolean().default(true).describe('Measure what ggml takes for the same work.'),
  kernels: z.enum(['auto', 'avx512', 'avx2']).default('auto').describe('Kernels to measure.'),
  listing: z
    .string()
    .optional()
    .describe('Print the offsets, bytes and assembly of this kernel, such as attention_f16_9_3x64_avx2, and end.'),
  json: z.string().optional().describe('Write machine and figures to this file.'),
});

export type BenchKernelsOptions = z.output<typeof benchKernelsSchema>;
