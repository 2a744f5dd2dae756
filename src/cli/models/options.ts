// Owns the options of `xllm models`.
import { z } from 'zod';
import type { WritableDType } from '../../files/encode-tensor.ts';
import { modelShapes } from '../../files/model-shapes.ts';
import { commandOptions } from '../config/options.ts';

const { cache, offline } = commandOptions.serve.shape;

const writableTypes = [
  'f32',
  'f16',
  'bf16',
  'q8_0',
  'q4_0',
  'q4_1',
] as const satisfies readonly Lowercase<WritableDType>[];

export const modelsOptions = {
  list: z.strictObject({ cache }),
  pull: z.strictObject({ cache, offline }),
  inspect: z.strictObject({
    cache,
    tensors: z.boolean().default(false).describe('List every tensor too.'),
  }),
  rm: z.strictObject({ cache }),
  synth: z.strictObject({
    type: z.enum(writableTypes).default('q8_0').describe('Format of the matrices.'),
    out: z.string().optional().describe('File to write (default: SHAPE-TYPE.gguf in this folder).'),
    seed: z.number().int().min(0).default(0).describe('Same seed, same bytes.'),
    tokenizer: z
      .string()
      .optional()
      .describe('Model to copy the tokenizer from, or none: token ids only (default: the default model).'),
    cache,
    offline,
  }),
} as const;

export type ModelsOptions<C extends keyof typeof modelsOptions> = z.output<(typeof modelsOptions)[C]>;

export const shapeNames = Object.keys(modelShapes);
