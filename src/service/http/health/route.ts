// Owns GET /health (this process lives) and GET /ready (a request sent now would be served).
import { z } from 'zod';
import type { HttpContext } from '../context.ts';
import { statusInTime } from './status.ts';

export const healthReply = z.object({ status: z.literal('ok') }).meta({ id: 'Health' });

export const readyReply = z
  .object({
    status: z.enum(['ready', 'starting', 'stalled', 'draining']),
    model: z.string().nullable(),
  })
  .meta({ id: 'Ready' });
export type ReadyReply = z.output<typeof readyReply>;

export async function readiness(context: HttpContext): Promise<ReadyReply> {
  const { engine, running, models, config } = context;
  const model = models.isReady ? (models.names[0] ?? null) : null;
  if (running.isDraining) return { status: 'draining', model };
  if (!models.isReady) return { status: 'starting', model };
  const status = await statusInTime(engine);
  // Neither an engine that does not answer nor one whose steps do not end would serve anybody.
  if (!status || status.stalledMs > config.maxStallMs) return { status: 'stalled', model };
  return { status: 'ready', model };
}
