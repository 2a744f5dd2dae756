// Owns turning chat messages into a prompt: which template, what it gets to see, what its failures are called.
import { XllmError } from '../../common/errors.ts';
import { ControlShield, freeMarks } from './control-shield.ts';
import { type JinjaLimits, JinjaTemplate, TemplateLimit, TemplateRefusal } from './jinja.ts';
import type { ChatMessage, ChatTemplateInput } from './text-service.ts';

export interface Prompt {
  /** With `shield` inside every control token that came from the messages. */
  readonly text: string;
  readonly shield: string;
}

export interface ChatTemplatesSpec {
  /** Jinja sources; 'default', and 'tool_use' for requests with tools where there is one. */
  readonly sources: ReadonlyMap<string, string>;
  /** Template variables: bos_token, eos_token and so on. */
  readonly variables: Readonly<Record<string, string>>;
  /** What control tokens look like in text. */
  readonly controlTokens: readonly string[];
  readonly limits: JinjaLimits;
}

interface Compiled {
  readonly source: string;
  readonly template: JinjaTemplate;
  /** Whether message contents may be lists of parts; otherwise parts become one text. */
  readonly takesParts: boolean;
}

export class ChatTemplates {
  readonly #spec: ChatTemplatesSpec;
  readonly #shield: ControlShield;
  readonly #compiled = new Map<string, Compiled>();

  constructor(spec: ChatTemplatesSpec) {
    this.#spec = spec;
    this.#shield = new ControlShield(spec.controlTokens);
  }

  /**
   * `nowMs` is what the template takes for the current time. Throws XllmError: template_failed; invalid_request for
   * parts that are no text, or for a message that cannot be continued.
   */
  render(input: ChatTemplateInput, nowMs: number): Prompt {
    const { source, template, takesParts } = this.#choose(input);
    if (input.continueFinalMessage && input.addGenerationPrompt) {
      throw new XllmError('invalid_request', 'a final message cannot be continued behind a generation prompt');
    }
    const messages = takesParts ? input.messages : input.messages.map(flattened);
    const given = { ...input.kwargs, messages, tools: input.tools };
    const [shield = '', tag = ''] = freeMarks(given, source, 2);
    const variables = this.#shield.protect(given, shield) as typeof given & { messages: ChatMessage[] };
    if (input.continueFinalMessage) tagFinalMessage(variables.messages, tag);
    const text = this.#run(template, { ...variables, add_generation_prompt: input.addGenerationPrompt }, nowMs);
    return { text: input.continueFinalMessage ? cutAtTag(text, tag) : text, shield };
  }

  #choose({ tools }: ChatTemplateInput): Compiled {
    const { sources } = this.#spec;
    const name = tools !== null && sources.has('tool_use') ? 'tool_use' : 'default';
    const source = sources.get(name) ?? sources.values().next().value;
    if (source === undefined) {
      throw new XllmError('template_failed', 'the model has no chat template; use /v1/completions');
    }
    let compiled = this.#compiled.get(source);
    if (compiled === undefined) {
      const template = failingAs('cannot be parsed', () => new JinjaTemplate(source));
      compiled = { source, template, takesParts: this.#takesParts(template) };
      this.#compiled.set(source, compiled);
    }
    return compiled;
  }

  /** Shows the template a message in parts: one that expects strings fails, loses the text or prints the list. */
  #takesParts(template: JinjaTemplate): boolean {
    const probe = 'xllm-probe';
    const messages = [{ role: 'user', content: [{ type: 'text', text: probe }] }];
    try {
      const text = this.#run(template, { messages, tools: null, add_generation_prompt: true }, 0);
      return text.includes(probe) && !text.includes(`'${probe}`) && !text.includes(`"${probe}`);
    } catch (error) {
      if (error instanceof XllmError) return false;
      throw error;
    }
  }

  #run(template: JinjaTemplate, given: Readonly<Record<string, unknown>>, nowMs: number): string {
    const variables = { documents: null, ...this.#spec.variables, ...given };
    return failingAs('failed', () => template.render(variables, nowMs, this.#spec.limits));
  }
}

function failingAs<T>(how: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    const message = (error as Error).message;
    const what =
      error instanceof TemplateRefusal
        ? `the chat template refused the messages: ${message}`
        : error instanceof TemplateLimit
          ? `the chat template was stopped: ${message}`
          : `the chat template ${how}: ${message}`;
    throw new XllmError('template_failed', what, { cause: error });
  }
}

/** Text parts joined by line breaks, as vLLM joins them for such templates. */
function flattened(message: ChatMessage): ChatMessage {
  if (!Array.isArray(message.content)) return message;
  const parts = message.content as Exclude<ChatMessage['content'], string | null>;
  const texts = parts.map(({ type, text }) => {
    if (type === 'text' && text !== undefined) return text;
    throw new XllmError('invalid_request', `the model takes no message part of type ${JSON.stringify(type)}`, {
      param: 'messages',
    });
  });
  return { ...message, content: texts.join('\n') };
}

/** The tag ends the final message's text, with a space that a trimming template takes away. */
function tagFinalMessage(messages: ChatMessage[], tag: string): void {
  const last = messages.at(-1);
  const parts = Array.isArray(last?.content) ? (last.content as { type: string; text?: string }[]) : null;
  const lastText = parts?.findLast((part) => part.type === 'text');
  if (last === undefined || (typeof last.content !== 'string' && lastText?.text === undefined)) {
    throw new XllmError('invalid_request', 'there is no final message with a text to continue', { param: 'messages' });
  }
  const tagged = (text: string) => `${text}${tag} `;
  messages[messages.length - 1] = {
    ...last,
    content:
      typeof last.content === 'string'
        ? tagged(last.content)
        : (parts ?? []).map((part) => (part === lastText ? { ...part, text: tagged(part.text ?? '') } : part)),
  };
}

/** Source of the rule: `continue_final_message` of transformers' apply_chat_template. */
function cutAtTag(text: string, tag: string): string {
  const at = text.lastIndexOf(tag);
  if (at === -1) {
    throw new XllmError('template_failed', 'the chat template leaves out the final message, so it cannot be continued');
  }
  // Without the space the template trims its messages; what stood before the tag was not at the end, so trim here.
  return text.startsWith(`${tag} `, at) ? text.slice(0, at) : text.slice(0, at).trimEnd();
}
