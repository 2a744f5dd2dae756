// Owns POST /tokenize and POST /detokenize.
import type { z } from 'zod';
import { XllmError } from '../../../common/errors.ts';
import { encodeMessages } from '../chat/prompt.ts';
import type { HttpContext } from '../context.ts';
import type { ServedModel } from '../models/served-models.ts';
import { parseBody } from '../request/body.ts';
import { toTokenIds } from '../request/token-ids.ts';
import type { UnsupportedFields } from '../request/unsupported.ts';
import { detokenizeRequest, type detokenizeReply, type tokenizeReply, tokenizeRequest } from './schema.ts';

const unsupported: UnsupportedFields = {
  tools: (value) => Array.isArray(value) && value.length === 0,
  chat_template: () => false,
};

export async function tokenize(context: HttpContext, body: unknown): Promise<z.output<typeof tokenizeReply>> {
  const fields = parseBody(tokenizeRequest, body, unsupported, context.log);
  const model = context.models.resolve(fields.model);
  const ids = await encodeEither(model, fields);
  const strings = fields.return_token_strs ? Array.from(ids, (id) => model.text.tokenText(id).text) : null;
  return { count: ids.length, max_model_len: model.engine.maxModelLen, tokens: [...ids], token_strs: strings };
}

function encodeEither({ text }: ServedModel, fields: z.output<typeof tokenizeRequest>): Promise<Int32Array> {
  const { prompt, messages } = fields;
  if (typeof prompt === 'string' && !messages) {
    return text.encode(prompt, {
      addSpecialTokens: fields.add_special_tokens ?? true,
      parseSpecialTokens: fields.parse_special_tokens ?? false,
    });
  }
  if (!messages || typeof prompt === 'string')
    throw new XllmError('invalid_request', 'Send either prompt or messages.', { param: 'prompt' });
  return encodeMessages(text, { ...fields, messages });
}

export async function detokenize(context: HttpContext, body: unknown): Promise<z.output<typeof detokenizeReply>> {
  const fields = parseBody(detokenizeRequest, body, {}, context.log);
  const model = context.models.resolve(fields.model);
  const ids = toTokenIds(fields.tokens, model.engine.vocabSize, 'tokens');
  return { prompt: await model.text.decode(ids, { skipSpecialTokens: false }) };
}
