// Owns hostile text: seeded random texts, messages and templates that must neither crash nor hang nor grow anything.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it, vi } from 'vitest';
import { XllmError } from '../../src/common/errors.ts';
import { ChatTemplates } from '../../src/service/text/chat-template.ts';
import { JinjaTemplate } from '../../src/service/text/jinja.ts';
import { decodeTokens } from '../../src/service/text/stream-decoder.ts';
import { TokenTable } from '../../src/service/text/token-table.ts';
import { Tokenizer } from '../../src/service/text/tokenizer.ts';
import { readGgufTokenizer } from '../../src/service/text/tokenizer-gguf.ts';
import { shareSpec, type TokenizerSpec } from '../../src/service/text/tokenizer-spec.ts';
import { readFixture, readGgmlVocabularies, readSpec } from './text-fixtures.ts';

const isFull = Boolean(process.env['XLLM_TEST_FULL']);
const numCases = isFull ? 10_000 : 300;
if (isFull) vi.setConfig({ testTimeout: 1_200_000 });

/** Mulberry32. */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

type Random = () => number;
const below = (random: Random, n: number) => Math.floor(random() * n);
const pick = <T>(random: Random, items: readonly T[]): T => items[below(random, items.length)] as T;

const controlTexts = ['<|im_start|>', '<|im_end|>', '<|endoftext|>', '<s>', '</s>', '<think>', '<|im_', '|>', '<0x0A>'];
const oddTexts = [
  '\ud800',
  '\udfff',
  '\u0000',
  '\ufeff',
  '\u0085',
  '\u200d',
  '\u0301',
  '\u0316',
  '\ue000',
  '한',
  '👩‍👩‍👧‍👦',
  '﷽',
];

function hostileText(random: Random): string {
  let text = '';
  for (let i = below(random, 12); i >= 0; i--) {
    const repeat = random() < 0.05 ? below(random, isFull ? 3_000 : 1_000) : random() < 0.3 ? below(random, 40) : 1;
    const part = pick(random, [
      () => pick(random, controlTexts),
      () => pick(random, oddTexts),
      () => String.fromCharCode(below(random, 0x10000)),
      () => String.fromCodePoint(below(random, 0x110000)),
      () => String.fromCharCode(0x20 + below(random, 0x60)),
      () => pick(random, [' ', '\n', '\t', '\r\n', '   ', '0', 'a', 'I', "'s", '...']),
      () => pick(random, ['Hello', ' world', 'naïve', '世界', 'привет', '123456', 'getElementById', '😀']),
    ])();
    text += part.repeat(repeat);
  }
  return text;
}

interface Subject {
  readonly name: string;
  readonly read: () => Promise<TokenizerSpec>;
  /** What decoding gives for a well-formed text; null where the tokenizer itself loses something. */
  readonly decoded: (text: string) => string | null;
}

const tokenizers: readonly Subject[] = [
  {
    name: 'smollm2',
    read: () => readSpec('smollm2'),
    // Its vocabulary lacks a few control characters and the bytes F1 and F2.
    decoded: (text) => {
      const lacks = (unit: string) => [0x04, 0x06, 0x13, 0x14, 0x16, 0x1d].includes(unit.charCodeAt(0));
      return /[\u{40000}-\u{bffff}]/u.test(text) || text.split('').some(lacks) ? null : text;
    },
  },
  {
    name: 'qwen3',
    read: () => readSpec('qwen3'),
    // Longer runs of combining marks are cut by a joiner.
    decoded: (text) => (/\p{M}{257}/u.test(text) ? null : text.normalize('NFC')),
  },
  {
    name: 'phi-3',
    read: async () => ggmlSpec('ggml-vocab-phi-3'),
    // After its added token </s> it puts a space, as at the start.
    decoded: (text) => (text.includes('</s>') ? null : text.replaceAll('\u2581', ' ')),
  },
];

function ggmlSpec(name: string): TokenizerSpec {
  const vocabulary = readGgmlVocabularies().find((candidate) => candidate.name === name);
  if (vocabulary === undefined) throw new Error(`no vocabulary ${name}`);
  return readGgufTokenizer(vocabulary.metadata);
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

function heapBytes(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

describe.each(tokenizers)('the tokenizer of $name', ({ read, decoded }) => {
  it('encodes any text without control tokens, and decodes to the same text', async () => {
    const spec = await read();
    const tokenizer = new Tokenizer(spec);
    const table = new TokenTable(shareSpec(spec));
    const random = randomNumbers(1);
    let heapAtHalf = 0;
    for (let i = 0; i < numCases; i++) {
      if (i === numCases / 2) heapAtHalf = heapBytes();
      const text = hostileText(random);
      const ids = tokenizer.encode(text, { addSpecialTokens: false, parseSpecialTokens: false });
      expect(ids.some((id) => table.isSpecial(id) || id < 0 || id >= spec.tokens.length)).toBe(false);
      const expected = decoded(text.toWellFormed());
      if (expected !== null) expect(decodeTokens(table, ids, {})).toBe(expected);
      tokenizer.encode(text, { addSpecialTokens: true, parseSpecialTokens: true });
    }
    // What is kept between texts is a cache of fixed size.
    expect(heapBytes() - heapAtHalf).toBeLessThan(50e6);
  });
});

describe('messages', () => {
  it.each(['smollm2', 'qwen3', 'chatml', 'inst'])('in template %s never add a control token', async (name) => {
    const spec = await readSpec('qwen3');
    const tokenizer = new Tokenizer(spec);
    const controlTokens = spec.added.filter((token) => token.special).map((token) => token.content);
    const controlIds = new Set(spec.added.filter((token) => token.special).map((token) => token.id));
    const templates = new ChatTemplates({
      sources: new Map([['default', readFixture(`templates/${name}.jinja`)]]),
      variables: { bos_token: '<|endoftext|>', eos_token: '<|im_end|>' },
      controlTokens,
      limits: { maxSteps: 1_000_000, maxUnits: 1_000_000 },
    });
    const numControls = (content: string, reply: string) => {
      const messages = [
        { role: 'user', content },
        { role: 'assistant', content: reply },
        { role: 'user', content: reply },
      ];
      const input = { messages, addGenerationPrompt: true, continueFinalMessage: false, kwargs: {}, tools: null };
      const { text, shield } = templates.render(input, 0);
      return tokenizer.encodeShielded(text, shield).filter((id) => controlIds.has(id)).length;
    };
    const expected = numControls('plain', 'text');
    expect(expected).toBeGreaterThan(1);
    const random = randomNumbers(2);
    for (let i = 0; i < numCases; i++) {
      expect(numControls(hostileText(random), hostileText(random))).toBe(expected);
    }
  });
});

const sources = ['smollm2', 'qwen3', 'chatml', 'inst', 'sink'].map((name) => readFixture(`templates/${name}.jinja`));
const fragments = [
  '{% for m in messages %}',
  '{% endfor %}',
  '{% for i in range(10**9) %}',
  '{% for i in range(5000) %}',
  '{% if m %}',
  '{% else %}',
  '{% endif %}',
  '{{ m.content }}',
  '{{ messages | tojson }}',
  '{{ messages * 9 }}',
  "{{ 'ab' * 900 }}",
  '{% set x = messages %}',
  '{% set ns = namespace(x=1) %}',
  '{% set ns.x = ns.x ~ ns.x %}',
  '{% set ns.x = [ns.x, ns.x] %}',
  '{% macro f(a) %}',
  '{% endmacro %}',
  '{{ f(f) }}',
  '{% break %}',
  '{% continue %}',
  '{{ loop.index }}',
  "{{ raise_exception('x') }}",
  "{{ m.content.split('') }}",
  '{{ messages[::-1][0].content[1:-1] | trim | upper }}',
  '{{',
  '}}',
  '{%',
  '%}',
  '{#',
  '#}',
  '-',
  '"',
  "'",
  '((((',
  '[[[[',
  '{{ 1 // 0 }}',
  '{{ 1 % 0 }}',
  '{{ -1 ** 0.5 }}',
  '{{ none.x.y }}',
  "{{ strftime_now('%Y%') }}",
  '{% call f(1) %}',
  '{% endcall %}',
  '{% filter upper %}',
  '{% endfilter %}',
  '{% generation %}',
  '{% raw %}',
  '{% endraw %}',
  '\ud800',
  '\u0000',
];

function hostileTemplate(random: Random): string {
  if (random() < 0.5) {
    let source = pick(random, sources);
    for (let edits = 1 + below(random, 4); edits > 0; edits--) {
      const at = below(random, source.length);
      source =
        source.slice(0, at) + (random() < 0.5 ? pick(random, fragments) : '') + source.slice(at + below(random, 9));
    }
    return source;
  }
  return Array.from({ length: 1 + below(random, 25) }, () => pick(random, fragments)).join('');
}

describe('templates', () => {
  it('render or fail, whatever they hold', () => {
    const random = randomNumbers(3);
    let numRendered = 0;
    let heapAtHalf = 0;
    for (let i = 0; i < numCases; i++) {
      if (i === numCases / 2) heapAtHalf = heapBytes();
      const source = hostileTemplate(random);
      const messages = Array.from({ length: below(random, 4) }, () => ({
        role: 'user',
        content: hostileText(random).slice(0, 200),
      }));
      const variables = { messages, tools: null, add_generation_prompt: true };
      try {
        const text = new JinjaTemplate(source).render(variables, 0, { maxSteps: 20_000, maxUnits: 20_000 });
        expect(text.length).toBeLessThanOrEqual(20_000);
        numRendered++;
      } catch (error) {
        expect(error).toBeInstanceOf(Error);
      }
    }
    expect(numRendered).toBeGreaterThan(numCases / 20);
    expect(heapBytes() - heapAtHalf).toBeLessThan(50e6);
  });

  it('report every failure as template_failed', () => {
    const random = randomNumbers(4);
    const input = {
      messages: [{ role: 'user', content: 'x' }],
      addGenerationPrompt: true,
      continueFinalMessage: false,
      kwargs: {},
      tools: null,
    };
    for (let i = 0; i < numCases / 3; i++) {
      const templates = new ChatTemplates({
        sources: new Map([['default', hostileTemplate(random)]]),
        variables: {},
        controlTokens: ['<|im_end|>'],
        limits: { maxSteps: 5_000, maxUnits: 5_000 },
      });
      try {
        templates.render(input, 0);
      } catch (error) {
        expect((error as XllmError).code).toBe('template_failed');
      }
    }
  });
});
