// Owns the options of `xllm bench machine`.
import { z } from 'zod';

export const benchMachineSchema = z.strictObject({
  threads: z.number().int().min(1).default(2).describe('Measure with one thread and with this many.'),
  json: z.string().optional().describe('Write machine and figures to this file.'),
});

export type BenchMachineOptions = z.output<typeof benchMachineSchema>;
