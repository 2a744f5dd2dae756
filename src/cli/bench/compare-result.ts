// Owns the JSON that `xllm bench compare` writes and docs/numbers.md is made from.
import { z } from 'zod';
import { machineSchema } from './machine.ts';
import { rooflineSchema } from './roofline.ts';
import { boundedLoadSchema, workSchema } from './work.ts';

const checkSchema = z.object({
  /** `unchecked`: the reference is nowhere sure enough, or the system serves another form of the weights. */
  verdict: z.enum(['right', 'wrong', 'unchecked']),
  numPrompts: z.number(),
  numTokens: z.number(),
  difference: z
    .object({ prompt: z.number(), step: z.number(), expected: z.number(), got: z.number().nullable() })
    .nullable(),
});
export type CheckResult = z.infer<typeof checkSchema>;

const systemSchema = z.object({
  name: z.string(),
  version: z.string(),
  notes: z.array(z.string()),
  /** Command lines per server shape, environment first, folders left out. */
  commands: z.object({ single: z.string(), batch: z.string() }),
  check: checkSchema,
});
export type SystemResult = z.infer<typeof systemSchema>;

const sampleSchema = z.object({
  scenario: z.string(),
  system: z.string(),
  round: z.number(),
  /** null: requests failed. */
  value: z.number().nullable(),
  numFailed: z.number(),
  ttftMs: z.number().nullable(),
  tpotMs: z.number().nullable(),
  /** Steady loops: completions while counting, per place. */
  numWaves: z.number().nullable(),
  /** CPU time of the event loop per engine step, where the system tells. */
  eventLoopUsPerStep: z.number().nullable(),
  /** Cores that other processes used meanwhile. */
  foreignCores: z.number(),
  /** No attempt was quiet; this is the quietest. */
  isDisturbed: z.boolean(),
});
export type Sample = z.infer<typeof sampleSchema>;

const modelSchema = z.object({
  name: z.string(),
  /** What `--models` takes for it, folders left out. */
  spec: z.string(),
  file: z.string(),
  bytes: z.number(),
  sha256: z.string(),
  reference: z.string(),
  /** What one step must read and multiply: see work.ts. */
  work: workSchema,
  systems: z.array(systemSchema),
  /** Systems that cannot serve this model, and why. */
  skipped: z.array(z.object({ name: z.string(), reason: z.string() })),
  samples: z.array(sampleSchema),
  /** Attempts thrown away because other processes used a core. */
  numRejected: z.number(),
});
export type ModelResult = z.infer<typeof modelSchema>;

export const compareResultSchema = z.object({
  kind: z.literal('compare'),
  date: z.string(),
  build: z.string(),
  commit: z.string().nullable(),
  machine: machineSchema,
  /** Measured when the comparison began; null where no code can be emitted. */
  roofline: rooflineSchema.nullable(),
  command: z.string(),
  threads: z.number(),
  rounds: z.number(),
  maxForeignCores: z.number(),
  /** Longest time that a steady loop is counted. */
  sampleS: z.number(),
  isPartial: z.boolean(),
  scenarios: z.array(z.object({ id: z.string(), title: z.string(), unit: z.string(), load: boundedLoadSchema })),
  models: z.array(modelSchema),
});
export type CompareResult = z.infer<typeof compareResultSchema>;
