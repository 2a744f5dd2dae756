import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GgufValue } from '../../files/weights-file.ts';
import { hasGgufTokenizer, readGgufTokenizer } from './tokenizer-gguf.ts';
import { readTokenizerFolder } from './tokenizer-json.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'xllm-tokenizer-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const put = (name: string, content: unknown) =>
  writeFileSync(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));

const tokens = ['a', '<s>', '</s>'];
const json = {
  model: { type: 'BPE', vocab: { a: 0, '<s>': 1, '</s>': 2 }, merges: [] },
  added_tokens: [
    { id: 1, content: '<s>', special: true },
    { id: 2, content: '</s>', special: true },
  ],
  post_processor: {
    type: 'Sequence',
    processors: [
      { type: 'ByteLevel' },
      {
        type: 'TemplateProcessing',
        single: [{ SpecialToken: { id: '<s>' } }, { Sequence: { id: 'A' } }, { SpecialToken: { id: '</s>' } }],
        special_tokens: { '<s>': { id: '<s>', ids: [1] }, '</s>': { id: '</s>', ids: [2] } },
      },
    ],
  },
};

describe('a folder', () => {
  it('says what goes around a text, its configuration before its post-processor', () => {
    put('tokenizer.json', json);
    expect(readTokenizerFolder(folder)).toMatchObject({ tokens, prefixIds: [1], suffixIds: [2], specialTokens: {} });
    put('tokenizer_config.json', { bos_token: { content: '<s>' }, eos_token: '</s>', add_eos_token: false });
    expect(readTokenizerFolder(folder)).toMatchObject({
      prefixIds: [1],
      suffixIds: [],
      specialTokens: { bos_token: '<s>', eos_token: '</s>' },
    });
    put('tokenizer.json', { ...json, post_processor: null });
    put('tokenizer_config.json', { add_bos_token: true });
    put('special_tokens_map.json', { bos_token: '<s>' });
    expect(readTokenizerFolder(folder)).toMatchObject({ prefixIds: [1], suffixIds: [] });
  });

  it('finds its chat template: a file of its own before the configuration, one or several', () => {
    put('tokenizer.json', json);
    const templates = () => Object.fromEntries(readTokenizerFolder(folder).chatTemplates);
    expect(templates()).toEqual({});
    put('tokenizer_config.json', {
      chat_template: [
        { name: 'default', template: 'd' },
        { name: 'tool_use', template: 't' },
      ],
    });
    expect(templates()).toEqual({ default: 'd', tool_use: 't' });
    put('tokenizer_config.json', { chat_template: 'one' });
    expect(templates()).toEqual({ default: 'one' });
    put('chat_template.json', { chat_template: 'two' });
    expect(templates()).toEqual({ default: 'two' });
    put('chat_template.jinja', 'three');
    expect(templates()).toEqual({ default: 'three' });
  });

  it.each([
    ['{', /is no JSON/],
    [[], /no JSON object/],
    [{}, /holds no model/],
    [{ model: { type: 'BPE', vocab: { a: -1 }, merges: [] } }, /token id -1/],
    [{ model: { type: 'BPE', vocab: { a: 1e9 }, merges: [] } }, /token id 1000000000/],
    [{ model: { type: 'BPE', vocab: {}, merges: [['a']] } }, /merge that is no pair/],
    [{ model: { type: 'BPE', merges: [] } }, /no vocabulary/],
    [{ model: { type: 'Unigram', vocab: [['a']] } }, /no pair/],
    [{ ...json, added_tokens: [{ content: 'x' }] }, /added token without text or id/],
    [{ ...json, pre_tokenizer: { type: 'Split' } }, /Split stage without a pattern/],
    [{ ...json, normalizer: { type: 'Sequence' } }, /sequence without stages/],
    [{ ...json, decoder: {} }, /without a type/],
  ])('refuses %j', (content, message) => {
    put('tokenizer.json', content);
    expect(() => readTokenizerFolder(folder)).toThrow(message);
    expect(() => readTokenizerFolder(folder)).toThrow(expect.objectContaining({ code: 'model_file_invalid' }));
  });

  it.each([
    { type: 'WordPiece', vocab: {} },
    { type: 'BPE', vocab: {}, merges: [], end_of_word_suffix: '</w>' },
  ])('does not support %j', (model) => {
    put('tokenizer.json', { ...json, model });
    expect(() => readTokenizerFolder(folder)).toThrow(expect.objectContaining({ code: 'model_unsupported' }));
  });
});

const metadata = (values: Readonly<Record<string, GgufValue>>) =>
  new Map(Object.entries(values).map(([key, value]) => [`tokenizer.${key}`, value]));

const llama = {
  'ggml.model': 'llama',
  'ggml.tokens': ['<unk>', '<s>', '</s>', '<0x0A>', '▁a', 'x'],
  'ggml.token_type': Int32Array.of(2, 3, 3, 6, 1, 5),
  'ggml.scores': Float32Array.of(0, 0, 0, 0, -1, -2),
};

describe('GGUF metadata', () => {
  it('follow the rules of their kind unless they say otherwise', () => {
    const spec = readGgufTokenizer(metadata(llama));
    expect(spec).toMatchObject({ prefixIds: [1], suffixIds: [], unknownId: 0, byteLevel: false, addsFirstSpace: true });
    expect(spec.added.map(({ id, special }) => [id, special])).toEqual([
      [0, true],
      [1, true],
      [2, true],
    ]);
    expect([...spec.unreachable]).toEqual([3, 5]);
    const other = metadata({
      ...llama,
      'ggml.add_bos_token': false,
      'ggml.add_eos_token': true,
      'ggml.add_space_prefix': false,
    });
    expect(readGgufTokenizer(other)).toMatchObject({ prefixIds: [], suffixIds: [2], addsFirstSpace: false });
    const gpt2 = { 'ggml.model': 'gpt2', 'ggml.tokens': ['a', '<s>'], 'ggml.merges': [], 'ggml.bos_token_id': 1 };
    expect(readGgufTokenizer(metadata(gpt2))).toMatchObject({ prefixIds: [], byteLevel: true });
    expect(readGgufTokenizer(metadata({ ...gpt2, 'ggml.pre': 'llama-bpe' }))).toMatchObject({
      prefixIds: [1],
      model: { ignoreMerges: true },
    });
    const t5 = { ...llama, 'ggml.model': 't5', 'ggml.eos_token_id': 2 };
    expect(readGgufTokenizer(metadata(t5))).toMatchObject({ suffixIds: [2], model: { kind: 'unigram' } });
  });

  it('give special tokens and templates by name', () => {
    const named = { ...llama, chat_template: 'd', 'chat_template.tool_use': 't', chat_templates: ['tool_use'] };
    const spec = readGgufTokenizer(metadata(named));
    expect(Object.fromEntries(spec.chatTemplates)).toEqual({ default: 'd', tool_use: 't' });
    expect(spec.specialTokens).toEqual({ bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' });
  });

  it('may hold no tokenizer', () => {
    expect(hasGgufTokenizer(new Map())).toBe(false);
    expect(hasGgufTokenizer(metadata({ 'ggml.model': 'none' }))).toBe(false);
    expect(hasGgufTokenizer(metadata(llama))).toBe(true);
  });

  it.each([
    [{ ...llama, 'ggml.model': 'bert' }, 'model_unsupported', /"bert"; known are gpt2/],
    [
      { 'ggml.model': 'gpt2', 'ggml.pre': 'klingon', 'ggml.tokens': [] },
      'model_unsupported',
      /"klingon"; known are default/,
    ],
    [{ 'ggml.model': 'llama' }, 'model_file_invalid', /tokens is no list of strings/],
    [{ ...llama, 'ggml.scores': ['x'] }, 'model_file_invalid', /scores is no list of numbers/],
  ])('are refused: %j', (values, code, message) => {
    expect(() => readGgufTokenizer(metadata(values as Record<string, GgufValue>))).toThrow(message);
    expect(() => readGgufTokenizer(metadata(values as Record<string, GgufValue>))).toThrow(
      expect.objectContaining({ code }),
    );
  });
});
