// Owns the way from chat messages to prompt tokens.
import { XllmError } from '../../../common/errors.ts';
import type { ChatMessage, TextService } from '../../text/text-service.ts';
import type { ChatMessageFields } from './schema.ts';

export interface TemplateRequest {
  readonly messages: readonly ChatMessageFields[];
  readonly add_generation_prompt?: boolean | null | undefined;
  readonly continue_final_message?: boolean | null | undefined;
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | null | undefined;
  readonly reasoning_effort?: string | null | undefined;
}

/** Throws XllmError for what cannot be rendered, or what the text service says. */
export async function encodeMessages(text: TextService, request: TemplateRequest): Promise<Int32Array> {
  const continueFinalMessage = request.continue_final_message ?? false;
  const addGenerationPrompt = request.add_generation_prompt ?? !continueFinalMessage;
  if (continueFinalMessage && addGenerationPrompt) {
    throw new XllmError('invalid_request', 'continue_final_message and add_generation_prompt exclude each other.', {
      param: 'continue_final_message',
    });
  }
  const messages = request.messages.map(toMessage);
  if (!text.hasTokenizer) {
    throw new XllmError('tokenizer_missing', 'The model has no tokenizer; send token ids to /v1/completions.', {
      param: 'messages',
    });
  }
  if (!text.hasChatTemplate) {
    throw new XllmError('template_failed', 'The model has no chat template; use /v1/completions.', {
      param: 'messages',
    });
  }
  const effort = request.reasoning_effort;
  const kwargs = {
    ...(typeof effort === 'string' ? { reasoning_effort: effort } : {}),
    ...request.chat_template_kwargs,
  };
  const { ids } = await text.encodeChat({ messages, addGenerationPrompt, continueFinalMessage, kwargs, tools: null });
  return ids;
}

/** Throws XllmError `unsupported_parameter` for tools and media, `invalid_request` for content that is missing. */
function toMessage(message: ChatMessageFields, index: number): ChatMessage {
  const { role, content, name, ...rest } = message;
  const at = `messages[${index}]`;
  const usesTools = role === 'tool' || role === 'function';
  if (usesTools) throw unsupported(`${at}.role`, `the role ${role}`);
  for (const field of ['tool_calls', 'function_call', 'audio'] as const) {
    const value = rest[field];
    const isEmpty = value === undefined || value === null || (Array.isArray(value) && value.length === 0);
    if (!isEmpty) throw unsupported(`${at}.${field}`, field);
  }
  if ((content === null || content === undefined) && role !== 'assistant')
    throw new XllmError('invalid_request', `${at}.content is missing.`, { param: `${at}.content` });
  // Templates know "system"; OpenAI's newer name for it is "developer".
  const known = { role: role === 'developer' ? 'system' : role, content: textOf(content ?? '', `${at}.content`) };
  const reasoning = rest.reasoning_content;
  return {
    ...known,
    ...(typeof name === 'string' ? { name } : {}),
    ...(typeof reasoning === 'string' ? { reasoning_content: reasoning } : {}),
  };
}

/** Parts become lines of one text, as in vLLM: not every template takes a list. */
function textOf(content: NonNullable<ChatMessageFields['content']>, at: string): string {
  if (typeof content === 'string') return content;
  const texts = content.map(({ type, text }, index) => {
    if (type !== 'text')
      throw unsupported(`${at}[${index}].type`, `content of type ${JSON.stringify(type.slice(0, 40))}`);
    if (text === undefined) {
      throw new XllmError('invalid_request', `${at}[${index}].text is missing.`, { param: `${at}[${index}].text` });
    }
    return text;
  });
  return texts.join('\n');
}

function unsupported(param: string, what: string): XllmError {
  return new XllmError('unsupported_parameter', `${param}: ${what} is not supported yet.`, { param });
}
