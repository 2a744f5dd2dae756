// Owns GET /v1/models.
import { z } from 'zod';
import { XllmError } from '../../../common/errors.ts';
import type { HttpContext } from '../context.ts';

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
  if (!names.includes(name)) {
    const others = names.length > 0 ? `; try ${names.join(', ')}` : '';
    throw new XllmError('model_not_found', `The model ${JSON.stringify(name)} is not served${others}.`, {
      param: 'model',
    });
  }
  return cardOf(context, name, startedS);
}

function cardOf({ engine }: HttpContext, id: string, created: number): z.output<typeof modelCard> {
  const length = engine.model ? { max_model_len: engine.model.maxModelLen } : {};
  return { id, object: 'model', created, owned_by: 'xllm', ...length };
}
