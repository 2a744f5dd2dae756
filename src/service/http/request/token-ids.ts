// Owns the check of token ids: the engine's native code must never see one outside the vocabulary.
import { z } from 'zod';
import { XllmError } from '../../../common/errors.ts';

const areIntegers = (value: unknown): value is number[] => Array.isArray(value) && value.every(Number.isInteger);

/** One check over the whole array: a prompt may have a million ids. */
export const tokenIdList = z
  .custom<number[]>(areIntegers, { error: 'must be a list of token ids' })
  .meta({ type: 'array', items: { type: 'integer', minimum: 0 } });

/** Throws XllmError `invalid_request` naming the first id that is no integer in [0, vocabSize). */
export function toTokenIds(ids: readonly number[], vocabSize: number, param: string): Int32Array {
  for (const id of ids) {
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw new XllmError('invalid_request', `${param}: ${id} is no token id; the model has ${vocabSize} tokens.`, {
        param,
      });
    }
  }
  return Int32Array.from(ids);
}
