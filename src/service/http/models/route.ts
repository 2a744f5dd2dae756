// Owns GET /v1/models.
import { z } from 'zod';
import type { HttpContext } from '../context.ts';
import { notFound } from './served-models.ts';

export const modelCard = z
  .object({
    id: z.string(),
    object: z.literal('model'),
    created: z.int(),
    owned_by: z.string(),
    max_model_len: z.int().optional().describe('Absent while no engine is connected.'),
  })
  .meta({ id: 'Model' });

export const modelList = z.object({ object: z.literal('list'), data: z.array(modelCard) }).meta({ id: 'ModelList' });

export function listModels(context: HttpContext, startedS: number): z.output<typeof modelList> {
  return { object: 'list', data: context.models.names.map((name) => cardOf(context, name, startedS)) };
}

/** Throws XllmError `model_not_found`. */
export function getModel(context: HttpContext, name: string, startedS: number): z.output<typeof modelCard> {
  const { names } = context.models;
  if (!names.includes(name)) throw notFound(name, names);
  return cardOf(context, name, startedS);
}

function cardOf({ models }: HttpContext, id: string, created: number): z.output<typeof modelCard> {
  const engine = models.lookup(id)?.engine;
  const length = engine ? { max_model_len: engine.maxModelLen } : {};
  return { id, object: 'model', created, owned_by: 'xllm', ...length };
}
