// Owns POST /v1/chat/completions.
import type { FastifyReply, FastifyRequest } from 'fastify';
import { XllmError } from '../../../common/errors.ts';
import type { HttpContext } from '../context.ts';
import { buildPlan, fitMaxTokens } from '../generation/build-plan.ts';
import { tokenNamer } from '../generation/logprobs.ts';
import { respond } from '../generation/respond.ts';
import { parseBody } from '../request/body.ts';
import { checkStreamOptions } from '../request/sampling-fields.ts';
import { unsupportedInChat } from '../request/unsupported.ts';
import { encodeMessages } from './prompt.ts';
import { chatRequest } from './schema.ts';
import { ChatView } from './view.ts';

export async function createChatCompletion(
  context: HttpContext,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<object | null> {
  const fields = parseBody(chatRequest, request.body, unsupportedInChat, context.log);
  checkStreamOptions(fields);
  const wantsLogprobs = fields.logprobs ?? false;
  if (!wantsLogprobs && (fields.top_logprobs ?? 0) > 0)
    throw new XllmError('invalid_request', 'top_logprobs needs logprobs: true.', { param: 'top_logprobs' });
  const model = context.models.resolve(fields.model);
  const ids = await request.record.tokenize(() => encodeMessages(model.text, fields));
  const wanted = fields.max_completion_tokens ?? fields.max_tokens;
  const maxTokens = fitMaxTokens(model.engine, ids.length, {
    wanted,
    otherwise: model.engine.maxModelLen,
    promptField: 'messages',
  });
  const plan = buildPlan(context, {
    fields,
    model,
    prompts: [{ ids, maxTokens, echo: null }],
    wantsLogprobs,
    numTopLogprobs: fields.top_logprobs ?? 0,
    echoes: false,
    sessionHeader: request.headers['x-session-id'],
  });
  const includeUsage = fields.stream_options?.include_usage ?? false;
  const view = new ChatView({
    id: `chatcmpl-${request.record.id}`,
    created: context.epochS(),
    model: model.name,
    fingerprint: model.engine.numericsId,
    numTopLogprobs: wantsLogprobs ? (fields.top_logprobs ?? 0) : null,
    returnTokenIds: fields.return_token_ids ?? false,
    promptIds: ids,
    nameOf: tokenNamer(model.text, fields.return_tokens_as_token_ids ?? false),
    includeUsage,
  });
  return respond(context, request, reply, {
    model,
    plan,
    view,
    stream: fields.stream ?? false,
    includeUsage,
    continuousUsage: fields.stream_options?.continuous_usage_stats ?? false,
  });
}
