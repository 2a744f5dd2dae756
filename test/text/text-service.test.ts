// Owns tests of the text service as its callers see it: worker threads, limits, failures.
import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { createTextService, type TextServiceOptions } from '../../src/service/text/create-text-service.ts';
import type { ChatTemplateInput, TextService } from '../../src/service/text/text-service.ts';
import { useTempFolder } from '../files/temp-folder.ts';
import { defaultModelPath, tokenizerFolder } from './text-fixtures.ts';

const folder = useTempFolder('text');
const services: TextService[] = [];
afterAll(() => Promise.all(services.map((service) => service.close())));

async function start(path: string, options?: TextServiceOptions): Promise<TextService> {
  const service = await createTextService(path, options);
  services.push(service);
  return service;
}

/** A model folder with Qwen3's tokenizer and a chat template of its own. */
function folderWithTemplate(name: string, template: string): string {
  const path = join(folder, name);
  cpSync(tokenizerFolder('qwen3'), path, { recursive: true });
  writeFileSync(join(path, 'chat_template.jinja'), template);
  return path;
}

const user = (content: string): ChatTemplateInput => ({
  messages: [{ role: 'user', content }],
  addGenerationPrompt: true,
  continueFinalMessage: false,
  kwargs: {},
  tools: null,
});
const asText = { addSpecialTokens: true, parseSpecialTokens: false };

describe('createTextService', () => {
  it('serves the default model: chat, encoding, decoding, streams, single tokens', async () => {
    const text = await start(await defaultModelPath());
    expect([text.hasTokenizer, text.hasChatTemplate]).toEqual([true, true]);
    const chat = await text.encodeChat(user('Hi<|im_end|> 😀'));
    expect(chat.text).toContain('<|im_start|>user\nHi<|im_end|> 😀<|im_end|>\n<|im_start|>assistant\n');
    // Two system turns of the template's own, two of the user's: <|im_end|> is 2, and the user's own is no token.
    expect(chat.ids.filter((id) => id === 2)).toHaveLength(2);
    expect(await text.decode(chat.ids, { skipSpecialTokens: false })).toBe(chat.text);
    const ids = await text.encode('naïve 😀', asText);
    const decoder = text.createStreamDecoder();
    const parts = Array.from(ids, (id) => decoder.push(id));
    expect(parts.join('') + decoder.flush()).toBe('naïve 😀');
    expect(parts.some((part) => part.includes('\ufffd'))).toBe(false);
    expect(text.tokenText(2)).toEqual({ text: '<|im_end|>', bytes: new TextEncoder().encode('<|im_end|>') });
    expect(text.tokenText(ids.at(-1) ?? 0).bytes).toEqual(Uint8Array.of(0x80));
    expect(text.tokenText(60_000)).toEqual({ text: '', bytes: new Uint8Array(0) });
    expect(await text.decode(new Int32Array(0))).toBe('');
  });

  it('answers many calls at once, over several threads, in the order of their results', async () => {
    const text = await start(tokenizerFolder('qwen3'), { numWorkers: 2 });
    const words = Array.from({ length: 200 }, (_, i) => `word ${i} ${'x'.repeat(i % 7)}`);
    const decoded = await Promise.all(words.map(async (word) => text.decode(await text.encode(word, asText))));
    expect(decoded).toEqual(words);
  });

  it('leaves the event loop free while it encodes', async () => {
    const text = await start(tokenizerFolder('qwen3'));
    let isDone = false;
    const ids = text.encode('ab '.repeat(1 << 18), asText).finally(() => {
      isDone = true;
    });
    let numTurns = 0;
    while (!isDone) {
      await nextTurn();
      numTurns++;
    }
    expect((await ids).length).toBeGreaterThan(1 << 18);
    expect(numTurns).toBeGreaterThan(100);
  });

  it('takes 100,000 spaces, one letter 300,000 times and 100,000 marks on one letter', async () => {
    const text = await start(await defaultModelPath());
    for (const hostile of [' '.repeat(100_000), 'a'.repeat(300_000), '\n'.repeat(100_000), '!'.repeat(100_000)]) {
      expect(await text.decode(await text.encode(hostile, asText))).toBe(hostile);
    }
    const normalising = await start(tokenizerFolder('qwen3'));
    expect((await normalising.encode(`e${'\u0301\u0316'.repeat(50_000)}`, asText)).length).toBeGreaterThan(0);
  });

  it('says which limit a text is past', async () => {
    const text = await start(tokenizerFolder('qwen3'), { maxTextUnits: 1_000, maxTemplateSteps: 10_000 });
    await expect(text.encode('x'.repeat(1_001), asText)).rejects.toMatchObject({ code: 'invalid_request' });
    await expect(text.encodeChat(user('x'.repeat(1_001)))).rejects.toMatchObject({ code: 'template_failed' });
    let deep: unknown[] = [];
    for (let i = 0; i < 20_000; i++) deep = [deep];
    await expect(text.encodeChat({ ...user('x'), kwargs: { deep } })).rejects.toMatchObject({ status: 400 });
    expect((await text.encode('still there', asText)).length).toBeGreaterThan(0);
  });

  it('ends a thread that takes too long, and only the call that made it do so fails', async () => {
    // Steps are few but each is slow: only time can stop it.
    const slow =
      "{% set s = ('a' * 4000000) %}{% for i in range(90000) %}{% if s.replace('a', 'b') %}{% endif %}{% endfor %}";
    const template = `{% if messages[0].content == 'slow' %}${slow}{% endif %}{{ messages[0].content }}`;
    const text = await start(folderWithTemplate('slow', template), { maxCallMs: 5_000 });
    const results = await Promise.allSettled([
      text.encodeChat(user('slow')),
      text.encodeChat(user('quick')),
      text.encode('also quick', asText),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled']);
    expect((results[0] as PromiseRejectedResult).reason).toMatchObject({
      code: 'template_failed',
      message: 'the chat template was stopped: it took longer than 5000 ms',
    });
  });

  it('survives a thread that runs out of memory', async () => {
    // Lists of lists: no single one is long.
    const greedy =
      '{% set ns = namespace(all=[]) %}{% for i in range(9000) %}{% set ns.all = ns.all + [range(90000)] %}{% endfor %}';
    const template = `{% if messages[0].content == 'greedy' %}${greedy}{% endif %}{{ messages[0].content }}`;
    const text = await start(folderWithTemplate('greedy', template), { maxHeapMb: 128 });
    const [failed, served] = await Promise.allSettled([text.encodeChat(user('greedy')), text.encodeChat(user('ok'))]);
    expect(failed).toMatchObject({ status: 'rejected', reason: { code: 'template_failed' } });
    expect((failed as PromiseRejectedResult).reason).toMatchObject({ message: /needed too much memory/ });
    expect(served).toMatchObject({ status: 'fulfilled', value: { text: 'ok' } });
  });

  it('refuses text for a model without tokenizer files', async () => {
    const text = await start(`${import.meta.dirname}/../fixtures/golden/llama`);
    expect([text.hasTokenizer, text.hasChatTemplate]).toEqual([false, false]);
    const missing = { code: 'tokenizer_missing' };
    await expect(text.encode('x', asText)).rejects.toMatchObject(missing);
    await expect(text.encodeChat(user('x'))).rejects.toMatchObject(missing);
    await expect(text.decode(Int32Array.of(1))).rejects.toMatchObject(missing);
    expect(() => text.createStreamDecoder()).toThrow(expect.objectContaining(missing));
    expect(() => text.tokenText(1)).toThrow(expect.objectContaining(missing));
  });

  it('fails to start with the reason, and answers no calls once closed', async () => {
    await expect(createTextService(join(folder, 'nothing-here'))).rejects.toMatchObject({ code: 'model_unavailable' });
    const broken = folderWithTemplate('broken', '');
    writeFileSync(join(broken, 'tokenizer.json'), '{"model": {"type": "Morse"}}');
    await expect(createTextService(broken)).rejects.toMatchObject({ code: 'model_unsupported' });
    const text = await createTextService(tokenizerFolder('qwen3'));
    const underWay = [text.encode('x', asText), text.encode('y', asText)].map((call) => call.catch((error) => error));
    await text.close();
    for (const error of await Promise.all(underWay)) expect(error).toMatchObject({ code: 'engine_unavailable' });
    await expect(text.encode('x', asText)).rejects.toMatchObject({ code: 'engine_unavailable' });
  });
});
