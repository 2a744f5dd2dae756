// Owns POST /v1/cluster/drain: an instance is told to leave, and what runs there goes on elsewhere.
import { z } from 'zod';
import { XllmError } from '../../../common/errors.ts';
import type { HttpContext } from '../context.ts';
import { parseBody } from '../request/body.ts';
import type { RoutingControl } from '../routing/control.ts';

export const drainRequest = z
  .object({
    instance: z.string().min(1).max(256).describe('Its name, as GET /v1/cluster lists it.'),
    force: z
      .boolean()
      .default(false)
      .describe('Also where nothing else can serve its model: it takes nothing new, and what runs there ends there.'),
  })
  .meta({ id: 'DrainRequest' });

export const drainReply = z
  .object({
    instance: z.string(),
    draining: z.literal(true),
    running: z.int().describe('Sequences that run there.'),
    waiting: z.int(),
  })
  .meta({ id: 'Drain' });

/** Throws XllmError `not_found`, `last_instance` or `engine_unavailable`. Asking twice is asking once. */
export async function drainInstance(
  routing: RoutingControl,
  body: unknown,
  { engine, log }: HttpContext,
): Promise<z.output<typeof drainReply>> {
  const { instance, force } = parseBody(drainRequest, body, {}, log);
  const refusal = await routing.drain(instance, force);
  if (refusal) {
    const wait = refusal.retryAfterS === undefined ? {} : { retryAfterS: refusal.retryAfterS };
    throw new XllmError(refusal.refused, refusal.message, { param: 'instance', ...wait });
  }
  log.info('an instance drains', { instance, force });
  const load = engine.view().instances.find(({ name }) => name === instance)?.load;
  return { instance, draining: true, running: load?.numRunning ?? 0, waiting: load?.numWaiting ?? 0 };
}
