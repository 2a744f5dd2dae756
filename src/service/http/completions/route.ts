// Owns POST /v1/completions.
import type { FastifyReply, FastifyRequest } from 'fastify';
import { XllmError } from '../../../common/errors.ts';
import type { EngineModel } from '../../engine-client.ts';
import type { TextService } from '../../text/text-service.ts';
import type { HttpContext } from '../context.ts';
import { buildPlan, fitMaxTokens } from '../generation/build-plan.ts';
import { numCodePoints } from '../generation/choice.ts';
import { tokenNamer } from '../generation/logprobs.ts';
import type { PromptPlan } from '../generation/plan.ts';
import { respond } from '../generation/respond.ts';
import { limits } from '../limits.ts';
import { parseBody } from '../request/body.ts';
import { checkStreamOptions } from '../request/sampling-fields.ts';
import { toTokenIds } from '../request/token-ids.ts';
import { unsupportedInCompletions } from '../request/unsupported.ts';
import { type CompletionRequest, completionRequest } from './schema.ts';
import { CompletionView } from './view.ts';

const DEFAULT_MAX_TOKENS = 16;

export async function createCompletion(
  context: HttpContext,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<object | null> {
  const fields = parseBody(completionRequest, request.body, unsupportedInCompletions, context.log);
  checkFields(fields);
  const model = context.models.resolve(fields.model);
  const prompts = await request.record.tokenize(() => readPrompts(model.text, fields, model.engine));
  const wantsLogprobs = typeof fields.logprobs === 'number';
  const plan = buildPlan(context, {
    fields,
    model,
    prompts,
    wantsLogprobs,
    numTopLogprobs: fields.logprobs ?? 0,
    echoes: fields.echo ?? false,
    sessionHeader: request.headers['x-session-id'],
  });
  const includeUsage = fields.stream_options?.include_usage ?? false;
  const view = new CompletionView({
    id: `cmpl-${request.record.id}`,
    created: context.epochS(),
    model: model.name,
    fingerprint: model.engine.numericsId,
    numTopLogprobs: fields.logprobs ?? null,
    returnTokenIds: fields.return_token_ids ?? !model.text.hasTokenizer,
    prompts: prompts.map(({ ids }) => ids),
    n: plan.n,
    nameOf: tokenNamer(model.text, fields.return_tokens_as_token_ids ?? false),
    includeUsage,
  });
  const continuousUsage = fields.stream_options?.continuous_usage_stats ?? false;
  return respond(context, request, reply, {
    model,
    plan,
    view,
    stream: fields.stream ?? false,
    includeUsage,
    continuousUsage,
  });
}

function checkFields(fields: CompletionRequest): void {
  checkStreamOptions(fields);
  const n = fields.n ?? 1;
  if ((fields.best_of ?? n) !== n) {
    throw new XllmError('unsupported_parameter', 'best_of is supported only when it equals n; leave it out.', {
      param: 'best_of',
    });
  }
  if (fields.max_tokens === 0 && !fields.echo)
    throw new XllmError('invalid_request', 'max_tokens may be 0 only with echo.', { param: 'max_tokens' });
}

async function readPrompts(text: TextService, fields: CompletionRequest, model: EngineModel): Promise<PromptPlan[]> {
  const inputs = promptList(fields.prompt);
  if (inputs.length > limits.choices) {
    throw new XllmError('invalid_request', `prompt lists more than ${limits.choices} prompts.`, { param: 'prompt' });
  }
  const prompts: PromptPlan[] = [];
  for (const input of inputs) {
    const ids =
      typeof input === 'string'
        ? await text.encode(input, {
            addSpecialTokens: fields.add_special_tokens ?? true,
            parseSpecialTokens: fields.parse_special_tokens ?? false,
          })
        : toTokenIds(input, model.vocabSize, 'prompt');
    const isEchoOnly = fields.max_tokens === 0;
    const wanted = isEchoOnly ? 1 : fields.max_tokens;
    const fitting = fitMaxTokens(model, ids.length, { wanted, otherwise: DEFAULT_MAX_TOKENS, promptField: 'prompt' });
    prompts.push({
      ids,
      maxTokens: isEchoOnly ? 0 : fitting,
      echo: fields.echo ? await readEcho(text, fields, input, ids) : null,
    });
  }
  return prompts;
}

function promptList(prompt: CompletionRequest['prompt']): readonly (string | readonly number[])[] {
  if (typeof prompt === 'string') return [prompt];
  const isOneList = prompt.every((part) => typeof part === 'number');
  return isOneList ? [prompt as number[]] : (prompt as (string | number[])[]);
}

/** The prompt's text as the client spelled it, and where each of its tokens begins. */
async function readEcho(
  text: TextService,
  fields: CompletionRequest,
  input: string | readonly number[],
  ids: Int32Array,
): Promise<NonNullable<PromptPlan['echo']>> {
  if (!text.hasTokenizer) return { text: '', textOffsets: [...ids].map(() => 0) };
  const options = { skipSpecialTokens: fields.skip_special_tokens ?? true };
  const spelled = typeof input === 'string' ? input : await text.decode(ids, options);
  const textOffsets: number[] = [];
  if (typeof fields.logprobs === 'number') {
    const decoder = text.createStreamDecoder(options);
    let offset = 0;
    for (const id of ids) {
      textOffsets.push(offset);
      offset += numCodePoints(decoder.push(id));
    }
  }
  return { text: spelled, textOffsets };
}
