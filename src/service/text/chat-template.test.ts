import { describe, expect, it } from 'vitest';
import { ChatTemplates } from './chat-template.ts';
import type { ChatTemplateInput } from './text-service.ts';

const chatml =
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const controlTokens = ['<|im_start|>', '<|im_end|>'];
const limits = { maxSteps: 100_000, maxUnits: 10_000 };

function templates(sources: Readonly<Record<string, string>>): ChatTemplates {
  const variables = { bos_token: '<s>', eos_token: '</s>' };
  return new ChatTemplates({ sources: new Map(Object.entries(sources)), variables, controlTokens, limits });
}

type Messages = ChatTemplateInput['messages'];

function render(source: string, messages: Messages, more: Partial<ChatTemplateInput> = {}): string {
  const input = { messages, addGenerationPrompt: false, continueFinalMessage: false, kwargs: {}, tools: null, ...more };
  const { text, shield } = templates({ default: source }).render(input, 0);
  return text.replaceAll(shield, '·');
}

describe('ChatTemplates', () => {
  it('renders, with control tokens of the messages broken and those of the template whole', () => {
    const text = render(chatml, [{ role: 'user', content: 'a<|im_end|>' }], { addGenerationPrompt: true });
    expect(text).toBe('<|im_start|>user\na<·|im_end|><|im_end|>\n<|im_start|>assistant\n');
  });

  it('passes variables: special tokens, chat_template_kwargs, tools', () => {
    const source = '{{ bos_token }}{{ thinking }}{{ tools is none }}{{ documents is none }}{{ messages | length }}';
    expect(render(source, [], { kwargs: { thinking: true, messages: 'not these' } })).toBe('<s>TrueTrueTrue0');
    const choice = templates({ default: 'plain', tool_use: 'with tools' });
    const input = { messages: [], addGenerationPrompt: false, continueFinalMessage: false, kwargs: {}, tools: null };
    expect(choice.render(input, 0).text).toBe('plain');
    expect(choice.render({ ...input, tools: [] }, 0).text).toBe('with tools');
  });

  it('gives a template that expects strings the text of parts, and one that takes parts the parts', () => {
    const parts = [
      { type: 'text', text: 'one' },
      { type: 'text', text: 'two' },
    ];
    expect(render(chatml, [{ role: 'user', content: parts }])).toBe('<|im_start|>user\none\ntwo<|im_end|>\n');
    expect(render('{{ messages[0].content }}', [{ role: 'user', content: parts }])).toBe('one\ntwo');
    const looping = '{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}';
    expect(render(looping, [{ role: 'user', content: parts }])).toBe('[one][two]');
    expect(() => render(chatml, [{ role: 'user', content: [{ type: 'image_url' }] }])).toThrow(/type "image_url"/);
  });

  it('continues the final message, whether the template trims or not', () => {
    const messages = [
      { role: 'user', content: 'q' },
      { role: 'assistant', content: 'half <|im_end|> a ' },
    ];
    const more = { continueFinalMessage: true };
    expect(render(chatml, messages, more)).toBe(
      '<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nhalf <·|im_end|> a ',
    );
    const trimming = chatml.replace('m.content', '(m.content | trim)');
    expect(render(trimming, messages, more)).toMatch(/assistant\nhalf <·\|im_end\|> a$/);
    const parts = [{ role: 'assistant', content: [{ type: 'text', text: 'half' }] }];
    expect(render('{% for p in messages[0].content %}{{ p.text }}{% endfor %}<end>', parts, more)).toBe('half');
    expect(() => render('', messages, more)).toThrow(/leaves out the final message/);
    expect(() => render(chatml, [], more)).toThrow(/no final message/);
    expect(() => render(chatml, messages, { ...more, addGenerationPrompt: true })).toThrow(/generation prompt/);
  });

  it.each([
    ["{{ raise_exception('roles must alternate') }}", 'the chat template refused the messages: roles must alternate'],
    ['{% for i in range(10**9) %}{% endfor %}', /was stopped: it asked for a range of more than 100000/],
    ["{{ 'a' * 20000 }}", /was stopped: it wrote too much/],
    ['{% if %}', /cannot be parsed/],
    ['{{ 1 + none }}', /failed: /],
  ])('reports what %s does as template_failed', (source, message) => {
    expect(() => render(source, [])).toThrow(expect.objectContaining({ code: 'template_failed' }));
    expect(() => render(source, [])).toThrow(message);
  });

  it('says that there is no template', () => {
    const input = { messages: [], addGenerationPrompt: false, continueFinalMessage: false, kwargs: {}, tools: null };
    expect(() => templates({}).render(input, 0)).toThrow(/no chat template/);
  });
});
