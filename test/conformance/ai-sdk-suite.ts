// Owns the conformance suite of the AI SDK's OpenAI-compatible provider.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, streamText } from 'ai';
import { describe, expect, test } from 'vitest';
import type { ConformanceTarget } from './openai-suite.ts';

const prompt = 'What is the capital of France?';

export function aiSdkConformance(target: ConformanceTarget): void {
  describe('AI SDK', () => {
    const provider = () =>
      createOpenAICompatible({
        name: 'xllm',
        baseURL: `${target.getBaseUrl()}/v1`,
        includeUsage: true,
        ...(target.apiKey === undefined ? {} : { apiKey: target.apiKey }),
      });
    const options = { temperature: 0, maxOutputTokens: 10, maxRetries: 0 };

    test('generateText and streamText agree', async () => {
      const model = provider().chatModel(target.model);
      const whole = await generateText({ model, prompt, ...options });
      expect(whole.text).not.toBe('');
      expect(['stop', 'length']).toContain(whole.finishReason);
      expect(whole.usage.outputTokens).toBeGreaterThan(0);
      const stream = streamText({ model, prompt, ...options });
      let text = '';
      for await (const part of stream.textStream) text += part;
      expect(text).toBe(whole.text);
      expect(await stream.finishReason).toBe(whole.finishReason);
      expect((await stream.usage).outputTokens).toBe(whole.usage.outputTokens);
      expect((await stream.usage).inputTokens).toBe(whole.usage.inputTokens);
    });

    test('the completion model answers', async () => {
      const model = provider().completionModel(target.model);
      const { text } = await generateText({ model, prompt: 'The capital of France is', ...options });
      expect(text).not.toBe('');
    });

    test('system messages and stop sequences', async () => {
      const model = provider().chatModel(target.model);
      const settings = { model, instructions: 'Be brief.', prompt, ...options };
      const full = (await generateText(settings)).text;
      const stop = full.slice(2, 5);
      const cut = await generateText({ ...settings, stopSequences: [stop] });
      expect(cut.text.trim()).toBe(full.slice(0, full.indexOf(stop)).trim());
      expect(cut.finishReason).toBe('stop');
    });

    test('an abort ends a stream, and the server goes on', async () => {
      const model = provider().chatModel(target.model);
      const abort = new AbortController();
      const stream = streamText({ model, prompt, temperature: 0, maxRetries: 0, abortSignal: abort.signal });
      let numParts = 0;
      for await (const _ of stream.textStream) if (++numParts === 2) abort.abort();
      expect(numParts).toBeGreaterThanOrEqual(2);
      expect((await generateText({ model, prompt, ...options })).text).not.toBe('');
    });

    test('errors carry the message', async () => {
      const call = generateText({ model: provider().chatModel('no-such-model'), prompt, ...options });
      await expect(call).rejects.toThrow(APICallError);
      await expect(call).rejects.toThrow(/no-such-model.*not served/);
    });
  });
}
