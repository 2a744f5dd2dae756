// Owns the body of /v1/completions and the form of its replies.
import { z } from 'zod';
import { limits } from '../limits.ts';
import { samplingFields } from '../request/sampling-fields.ts';
import { tokenIdList } from '../request/token-ids.ts';

export const completionRequest = z
  .object({
    ...samplingFields,
    prompt: z
      .union([z.string(), tokenIdList, z.array(z.string()).min(1), z.array(tokenIdList).min(1)], {
        error: 'must be a string, a list of strings, a list of token ids, or a list of such lists',
      })
      .describe('Text or token ids; a list of either gives n choices for each.'),
    max_tokens: z.int().min(0).nullish().describe('Tokens to generate (default 16); 0 only with echo.'),
    echo: z.boolean().nullish().describe('Begin each choice with its prompt.'),
    logprobs: z.int().min(0).max(limits.logprobs).nullish().describe('Alternatives per token.'),
    best_of: z.int().min(1).nullish().describe('Only equal to n.'),
    add_special_tokens: z.boolean().nullish().describe("Add the model's begin-of-text token (default true)."),
    parse_special_tokens: z
      .boolean()
      .nullish()
      .describe('Control tokens spelled out in the prompt count as such (default false).'),
  })
  .meta({ id: 'CompletionRequest' });
export type CompletionRequest = z.output<typeof completionRequest>;

export const usage = z
  .object({
    prompt_tokens: z.int(),
    completion_tokens: z.int(),
    total_tokens: z.int(),
    prompt_tokens_details: z.object({ cached_tokens: z.int() }),
  })
  .meta({ id: 'Usage' });

const completionChoice = z.object({
  index: z.int(),
  text: z.string(),
  logprobs: z
    .object({
      tokens: z.array(z.string()),
      token_logprobs: z.array(z.number().nullable()),
      top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
      text_offset: z.array(z.int()),
    })
    .nullable(),
  finish_reason: z.enum(['stop', 'length']).nullable(),
  stop_reason: z.union([z.string(), z.int()]).nullable(),
  prompt_token_ids: z.array(z.int()).optional(),
  token_ids: z.array(z.int()).optional(),
});

/** The whole reply; a streamed event has the same form, with `usage` only where asked for. */
export const completionReply = z
  .object({
    id: z.string(),
    object: z.literal('text_completion'),
    created: z.int(),
    model: z.string(),
    system_fingerprint: z.string(),
    choices: z.array(completionChoice),
    usage: usage.nullish(),
  })
  .meta({ id: 'CompletionReply' });
