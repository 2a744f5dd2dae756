// Owns what the timed device is told of the machine that it stands for: a profile file, or the one shipped.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { XllmError } from '../../common/errors.ts';

const price = z.number().min(0).max(1e9);

const profileSchema = z.strictObject({
  /** Of the machine and model that was measured: for people. */
  name: z.string(),
  stepTime: z.strictObject({ constantMs: price, tokenMs: price, seqMs: price, contextMs: price, pairMs: price }),
  /** Bytes that the KV cache may take on that machine. */
  kvCacheMemory: z.number().int().min(1).optional(),
});
export type TimedProfile = z.output<typeof profileSchema>;

/** Of the order of what step-time-fit.ts finds for SmolLM2-135M (Q4_1) on two cores of a server CPU. */
export const defaultProfile: TimedProfile = {
  name: 'a 135M model on two CPU cores',
  stepTime: { constantMs: 4, tokenMs: 0.9, seqMs: 0.3, contextMs: 1e-3, pairMs: 5e-5 },
};

/** The model that the timed device stands for where none is named: a description without weights and tokenizer. */
export const timedModelFolder = fileURLToPath(new URL('./timed-model', import.meta.url));

/** Throws XllmError `usage` naming the file and the field. */
export function readProfile(path: string | undefined): TimedProfile {
  if (path === undefined) return defaultProfile;
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    throw new XllmError('usage', `--profile ${path} cannot be read: ${detail}`);
  }
  const parsed = profileSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new XllmError(
    'usage',
    `--profile ${path}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'is not valid'}`,
  );
}
