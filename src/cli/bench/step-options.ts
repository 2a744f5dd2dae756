// Owns the options of `xllm bench step`.
import { z } from 'zod';
import { kvCacheDtypes } from '../../engine/step/kv-cache-dtype.ts';

export const counts = (what: string, fallback: string) =>
  z
    .string()
    .regex(/^\d+(,\d+)*$/, 'numbers, separated by commas')
    .default(fallback)
    .transform((text) => text.split(',').map(Number))
    .describe(what);

export const benchStepSchema = z.strictObject({
  sequences: counts('Measure decoding of so many sequences at once.', '1,8,16'),
  context: z.number().int().min(1).default(256).describe('Tokens that each sequence has before.'),
  prefill: counts('Measure prompts of so many tokens; 0: none.', '512'),
  steps: z.number().int().min(4).default(64).describe('Decoding steps that are timed.'),
  profile: z.boolean().default(false).describe('Show what each kind of op takes.'),
  perfMap: z.boolean().default(false).describe('Write /tmp/perf-PID.map, so that Linux perf shows kernels by name.'),
  threads: z.number().int().min(1).optional().describe('Compute threads (default: all cores).'),
  kernels: z.enum(['auto', 'avx512', 'avx2', 'ggml']).default('auto').describe('Kernels to run.'),
  kvCacheDtype: z.enum(kvCacheDtypes).default('auto').describe('Elements of cached keys and values.'),
  cache: z.string().optional().describe('Folder for downloaded models.'),
  offline: z.boolean().default(false).describe('Use only models that are already there.'),
  json: z.string().optional().describe('Write machine, model and figures to this file.'),
});

export type BenchStepOptions = z.output<typeof benchStepSchema>;
