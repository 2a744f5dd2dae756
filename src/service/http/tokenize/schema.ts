// Owns the bodies of /tokenize and /detokenize and the form of their replies (vLLM's).
import { z } from 'zod';
import { templateFields } from '../chat/schema.ts';
import { tokenIdList } from '../request/token-ids.ts';

export const tokenizeRequest = z
  .object({
    model: z.string().max(1024).nullish(),
    prompt: z.string().nullish().describe('Text; or send messages.'),
    ...templateFields,
    messages: templateFields.messages.nullish().describe('A chat, rendered by the chat template.'),
    add_special_tokens: z.boolean().nullish().describe('For prompt: add the begin-of-text token (default true).'),
    parse_special_tokens: z.boolean().nullish().describe('For prompt: spelled-out control tokens count as such.'),
    return_token_strs: z.boolean().nullish().describe('Also the text of each token.'),
  })
  .meta({ id: 'TokenizeRequest' });

export const tokenizeReply = z
  .object({
    count: z.int(),
    max_model_len: z.int(),
    tokens: z.array(z.int()),
    token_strs: z.array(z.string()).nullable(),
  })
  .meta({ id: 'TokenizeReply' });

export const detokenizeRequest = z
  .object({
    model: z.string().max(1024).nullish(),
    tokens: tokenIdList,
  })
  .meta({ id: 'DetokenizeRequest' });

export const detokenizeReply = z.object({ prompt: z.string() }).meta({ id: 'DetokenizeReply' });
