// Owns the way of one generation to its client: as a stream or as a whole, with every early end told to the engine.
import type { FastifyReply, FastifyRequest } from 'fastify';
import { XllmError } from '../../../common/errors.ts';
import type { HttpContext } from '../context.ts';
import { errorBody, toXllmError } from '../error-reply.ts';
import type { ServedModel } from '../models/served-models.ts';
import { SseStream } from '../sse-stream.ts';
import { type ChoiceEvent, foldEvents } from './events.ts';
import { Generation } from './generation.ts';
import type { GenerationPlan } from './plan.ts';
import { type ReplyView, usageBody } from './view.ts';

export interface GenerationJob {
  readonly model: ServedModel;
  readonly plan: GenerationPlan;
  readonly view: ReplyView;
  readonly stream: boolean;
  /** One more event at the end of a stream. */
  readonly includeUsage: boolean;
  /** Usage so far in every event of a stream. */
  readonly continuousUsage: boolean;
}

/**
 * Runs the job and answers the request. Returns the reply's body, or null where the reply was hijacked for a stream.
 * Throws XllmError as long as no headers are sent; later failures are an event of the stream.
 */
export async function respond(
  context: HttpContext,
  request: FastifyRequest,
  reply: FastifyReply,
  job: GenerationJob,
): Promise<object | null> {
  const { record } = request;
  const client = new ClientWatch(reply);
  client.throwIfGone();
  const generation = await Generation.start(job.plan, context.engine, job.model.text, record);
  record.admitted(job.model.name, job.plan);
  context.running.add(generation);
  client.onGone(() => generation.cancel(goneError()));
  try {
    if (job.stream) {
      await stream(context, request, reply, job, generation);
      return null;
    }
    return await whole(job, generation);
  } catch (error) {
    record.errorCode = toXllmError(error, record.id).code;
    throw error;
  } finally {
    context.running.delete(generation);
    record.finish(generation.usage);
  }
}

async function whole({ plan, view }: GenerationJob, generation: Generation): Promise<object> {
  const log: ChoiceEvent[][] = plan.seeds.map(() => []);
  await generation.run((event) => log[event.choice]?.push(event));
  return view.body(log.map(foldEvents), usageBody(generation.usage));
}

async function stream(
  { config, log, metrics }: HttpContext,
  { record }: FastifyRequest,
  reply: FastifyReply,
  { view, includeUsage, continuousUsage }: GenerationJob,
  generation: Generation,
): Promise<void> {
  reply.hijack();
  const headers = Object.fromEntries(Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)]));
  const sse = new SseStream(reply.raw, headers, config.stream, {
    onBehind: () => {
      metrics.slowReader('paused');
      generation.pause();
    },
    onCaughtUp: () => generation.resume(),
    onStuck: () => {
      metrics.slowReader('cancelled');
      generation.cancel(new XllmError('request_cancelled', 'The client stopped reading.'));
    },
  });
  metrics.streamOpened();
  try {
    await generation.run((event) => {
      const usage = continuousUsage ? usageBody(generation.usage) : null;
      for (const chunk of view.chunks(event, usage)) sse.send(chunk);
    });
    if (includeUsage) sse.send(view.usageChunk(usageBody(generation.usage)));
    sse.end('[DONE]');
  } catch (error) {
    const failure = toXllmError(error, record.id);
    record.errorCode = failure.code;
    if (failure.code === 'internal_error') log.error('request failed', { id: record.id, stack: stackOf(error) });
    // Headers are gone: the failure is the last event, and no [DONE] follows it.
    sse.end(JSON.stringify(errorBody(failure)));
  } finally {
    metrics.streamClosed();
  }
}

/** Knows whether the client is still there. */
class ClientWatch {
  readonly #reply: FastifyReply;

  constructor(reply: FastifyReply) {
    this.#reply = reply;
  }

  throwIfGone(): void {
    if (this.#isGone) throw goneError();
  }

  /** At most one call, at once if the client has gone already. */
  onGone(callback: () => void): void {
    const { raw } = this.#reply;
    if (this.#isGone) callback();
    // 'close' of the request fires when its body ends; only the reply's tells of the connection.
    else
      raw.once('close', () => {
        if (!raw.writableFinished) callback();
      });
  }

  get #isGone(): boolean {
    const { raw } = this.#reply;
    return raw.destroyed || raw.socket?.destroyed === true;
  }
}

function goneError(): XllmError {
  return new XllmError('request_cancelled', 'The client went away.');
}

export function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
