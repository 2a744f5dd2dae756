// Owns the body of /v1/chat/completions and the form of its replies.
import { z } from 'zod';
import { usage } from '../completions/schema.ts';
import { limits } from '../limits.ts';
import { samplingFields } from '../request/sampling-fields.ts';

const contentPart = z.looseObject({ type: z.string(), text: z.string().optional() });

const chatMessage = z
  .looseObject({
    role: z.enum(['system', 'developer', 'user', 'assistant', 'tool', 'function']),
    content: z
      .union([z.string(), z.array(contentPart).max(limits.contentParts)], {
        error: 'must be a string or a list of {"type": "text", "text": …} parts',
      })
      .nullish(),
    name: z.string().nullish(),
  })
  .meta({ id: 'ChatMessage' });
export type ChatMessageFields = z.output<typeof chatMessage>;

/** What both chatting and tokenising a chat say about the prompt. */
export const templateFields = {
  messages: z.array(chatMessage).min(1).max(limits.messages),
  add_generation_prompt: z
    .boolean()
    .nullish()
    .describe('Let the template open the reply (default true, unless continue_final_message).'),
  continue_final_message: z
    .boolean()
    .nullish()
    .describe('Leave the last message open, for the model to go on with it.'),
  chat_template_kwargs: z
    .record(z.string(), z.unknown())
    .nullish()
    .describe('More variables for the chat template, such as enable_thinking.'),
};

export const chatRequest = z
  .object({
    ...samplingFields,
    ...templateFields,
    max_completion_tokens: z.int().min(1).nullish().describe('Tokens to generate (default: what fits).'),
    max_tokens: z.int().min(1).nullish().describe('Older name of max_completion_tokens.'),
    logprobs: z.boolean().nullish().describe('Log-probabilities of the tokens.'),
    top_logprobs: z.int().min(0).max(limits.logprobs).nullish().describe('Alternatives per token; needs logprobs.'),
    reasoning_effort: z.string().max(64).nullish().describe('Handed to the chat template, which may heed it.'),
  })
  .meta({ id: 'ChatRequest' });

const named = { token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() };
const logprobs = z
  .object({
    content: z.array(z.object({ ...named, top_logprobs: z.array(z.object(named)) })),
    refusal: z.null(),
  })
  .nullable();
const finishing = {
  finish_reason: z.enum(['stop', 'length']).nullable(),
  stop_reason: z.union([z.string(), z.int()]).nullable(),
  token_ids: z.array(z.int()).optional(),
};
const head = {
  id: z.string(),
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string(),
  prompt_token_ids: z.array(z.int()).optional(),
};

export const chatReply = z
  .object({
    ...head,
    object: z.literal('chat.completion'),
    choices: z.array(
      z.object({
        index: z.int(),
        message: z.object({ role: z.literal('assistant'), content: z.string(), refusal: z.null() }),
        logprobs,
        ...finishing,
      }),
    ),
    usage,
  })
  .meta({ id: 'ChatReply' });

export const chatChunk = z
  .object({
    ...head,
    object: z.literal('chat.completion.chunk'),
    choices: z.array(
      z.object({
        index: z.int(),
        delta: z.object({ role: z.literal('assistant').optional(), content: z.string().optional() }),
        logprobs,
        ...finishing,
      }),
    ),
    usage: usage.nullish(),
  })
  .meta({ id: 'ChatChunk' });
