// Owns the conformance suite of the official OpenAI client: every server of ours must pass it, whatever engine it has.
import OpenAI from 'openai';
import { beforeAll, describe, expect, test } from 'vitest';

export interface ConformanceTarget {
  /** Base URL without /v1. */
  readonly getBaseUrl: () => string;
  readonly model: string;
  readonly apiKey?: string;
}

/** Enough to cut a stop string out of; few, because a real model computes every one of them. */
const MAX_TOKENS = 10;
const messages = [{ role: 'user' as const, content: 'What is the capital of France?' }];

export function openaiConformance(target: ConformanceTarget): void {
  describe('openai client', () => {
    let client: OpenAI;
    const { model } = target;
    const greedy = { model, temperature: 0, max_tokens: MAX_TOKENS };

    beforeAll(() => {
      client = new OpenAI({
        baseURL: `${target.getBaseUrl()}/v1`,
        apiKey: target.apiKey ?? 'none',
        maxRetries: 0,
      });
    });

    let greedyAnswer: Promise<string> | null = null;
    /** What other tests cut and compare. */
    const answer = () => {
      greedyAnswer ??= client.chat.completions
        .create({ ...greedy, messages })
        .then(({ choices }) => choices[0]?.message.content ?? '');
      return greedyAnswer;
    };

    test('lists models and describes one', async () => {
      const { data } = await client.models.list();
      expect(data.map(({ id }) => id)).toContain(model);
      expect(await client.models.retrieve(model)).toMatchObject({ id: model, object: 'model' });
    });

    test('chat: answers with a finish reason and usage that adds up', async () => {
      const reply = await client.chat.completions.create({ ...greedy, messages });
      expect(reply).toMatchObject({ object: 'chat.completion', model });
      expect(reply.id).toMatch(/^chatcmpl-/);
      const [choice] = reply.choices;
      expect(choice?.message).toMatchObject({ role: 'assistant', refusal: null });
      expect(choice?.message.content).not.toBe('');
      expect(['stop', 'length']).toContain(choice?.finish_reason);
      const { usage } = reply;
      expect(usage?.total_tokens).toBe((usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0));
      expect(usage?.completion_tokens).toBeLessThanOrEqual(MAX_TOKENS);
      expect(usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThanOrEqual(0);
    });

    test('chat: a stream says what the whole reply says', async () => {
      const whole = await client.chat.completions.create({ ...greedy, messages });
      const stream = await client.chat.completions.create({
        ...greedy,
        messages,
        stream: true,
        stream_options: { include_usage: true },
      });
      let text = '';
      let finish: string | null = null;
      let usage: OpenAI.CompletionUsage | null | undefined;
      const ids = new Set<string>();
      const roles: (string | undefined)[] = [];
      for await (const chunk of stream) {
        ids.add(chunk.id);
        const [choice] = chunk.choices;
        if (choice?.delta.role) roles.push(choice.delta.role);
        text += choice?.delta.content ?? '';
        if (choice?.finish_reason) expect(finish).toBeNull();
        finish = choice?.finish_reason ?? finish;
        if (chunk.choices.length === 0) usage = chunk.usage;
      }
      expect(ids.size).toBe(1);
      expect(roles).toEqual(['assistant']);
      expect(text).toBe(whole.choices[0]?.message.content);
      expect(finish).toBe(whole.choices[0]?.finish_reason);
      expect(usage).toMatchObject({
        prompt_tokens: whole.usage?.prompt_tokens,
        completion_tokens: whole.usage?.completion_tokens,
      });
    });

    test('chat: the stream helper reassembles the same message', async () => {
      const runner = client.chat.completions.stream({ ...greedy, messages });
      expect(await runner.finalContent()).toBe(await answer());
    });

    test('chat: logprobs cover every token, with alternatives', async () => {
      const reply = await client.chat.completions.create({ ...greedy, messages, logprobs: true, top_logprobs: 3 });
      const content = reply.choices[0]?.logprobs?.content ?? [];
      expect(content).toHaveLength(reply.usage?.completion_tokens ?? -1);
      for (const entry of content) {
        expect(entry.logprob).toBeLessThanOrEqual(0);
        expect(entry.top_logprobs).toHaveLength(3);
        expect(entry.bytes).toBeInstanceOf(Array);
        // Greedy: the chosen token is the best one.
        expect(entry.top_logprobs[0]?.logprob).toBe(entry.logprob);
        const sorted = entry.top_logprobs.map(({ logprob }) => logprob);
        expect(sorted).toEqual(sorted.toSorted((a, b) => b - a));
      }
    });

    test('chat: logprobs of a stream are those of the whole reply', async () => {
      const options = { ...greedy, messages, logprobs: true, top_logprobs: 2 };
      const whole = await client.chat.completions.create(options);
      const streamed = [];
      for await (const chunk of await client.chat.completions.create({ ...options, stream: true }))
        streamed.push(...(chunk.choices[0]?.logprobs?.content ?? []));
      expect(streamed).toEqual(whole.choices[0]?.logprobs?.content);
    });

    test('chat: n choices, equal where greedy, repeatable by seed where not', async () => {
      const equal = await client.chat.completions.create({ ...greedy, messages, n: 3 });
      expect(equal.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
      expect(new Set(equal.choices.map(({ message }) => message.content)).size).toBe(1);
      const sampled = { ...greedy, messages, n: 3, temperature: 1.5, seed: 7 };
      const first = await client.chat.completions.create(sampled);
      const second = await client.chat.completions.create(sampled);
      const texts = (reply: OpenAI.ChatCompletion) => reply.choices.map(({ message }) => message.content);
      expect(texts(second)).toEqual(texts(first));
      expect(new Set(texts(first)).size).toBeGreaterThan(1);
      // Choice 0 is what the seed gives alone.
      const alone = await client.chat.completions.create({ ...sampled, n: 1 });
      expect(texts(alone)[0]).toBe(texts(first)[0]);
    });

    test('chat: n choices of a stream arrive whole', async () => {
      const sampled = { ...greedy, messages, n: 3, temperature: 1.5, seed: 7 };
      const whole = await client.chat.completions.create(sampled);
      const texts = ['', '', ''];
      const finishes: (string | null)[] = [null, null, null];
      for await (const { choices } of await client.chat.completions.create({ ...sampled, stream: true })) {
        for (const { index, delta, finish_reason } of choices) {
          texts[index] += delta.content ?? '';
          finishes[index] = finish_reason ?? finishes[index] ?? null;
        }
      }
      expect(texts).toEqual(whole.choices.map(({ message }) => message.content));
      expect(finishes).toEqual(whole.choices.map(({ finish_reason }) => finish_reason));
    });

    test('chat: a stop string ends the text before it, streaming and not', async () => {
      const full = await answer();
      const stop = full.slice(3, 6);
      const expected = full.slice(0, full.indexOf(stop));
      const whole = await client.chat.completions.create({ ...greedy, messages, stop });
      expect(whole.choices[0]).toMatchObject({ finish_reason: 'stop', message: { content: expected } });
      let text = '';
      let finish: string | null | undefined;
      for await (const { choices } of await client.chat.completions.create({
        ...greedy,
        messages,
        stop: [stop],
        stream: true,
      })) {
        text += choices[0]?.delta.content ?? '';
        finish = choices[0]?.finish_reason ?? finish;
      }
      expect({ text, finish }).toEqual({ text: expected, finish: 'stop' });
    });

    test('chat: max_completion_tokens is the length limit', async () => {
      const reply = await client.chat.completions.create({
        model,
        temperature: 0,
        messages,
        max_completion_tokens: 2,
        ...({ ignore_eos: true } as object),
      });
      expect(reply.choices[0]?.finish_reason).toBe('length');
      expect(reply.usage?.completion_tokens).toBe(2);
    });

    test('chat: content in parts', async () => {
      const parts = [{ role: 'user' as const, content: [{ type: 'text' as const, text: messages[0]?.content ?? '' }] }];
      const reply = await client.chat.completions.create({ ...greedy, messages: parts });
      expect(reply.choices[0]?.message.content).toBe(await answer());
    });

    test('completions: text, several prompts, echo', async () => {
      const one = await client.completions.create({ ...greedy, prompt: 'The capital of France is' });
      expect(one).toMatchObject({ object: 'text_completion', model });
      expect(one.choices[0]?.text).not.toBe('');
      const two = await client.completions.create({
        ...greedy,
        prompt: ['The capital of France is', 'One, two,'],
        n: 2,
      });
      expect(two.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
      expect(two.choices[0]?.text).toBe(one.choices[0]?.text);
      expect(two.choices[1]?.text).toBe(one.choices[0]?.text);
      const echoed = await client.completions.create({ ...greedy, prompt: 'The capital of France is', echo: true });
      expect(echoed.choices[0]?.text).toBe(`The capital of France is${one.choices[0]?.text}`);
      expect(echoed.usage?.completion_tokens).toBe(one.usage?.completion_tokens);
    });

    test('completions: a stream says what the whole reply says, logprobs too', async () => {
      const options = { ...greedy, prompt: 'Once upon a time', logprobs: 2 };
      const whole = await client.completions.create(options);
      let text = '';
      const tokens: string[] = [];
      const offsets: number[] = [];
      for await (const { choices } of await client.completions.create({ ...options, stream: true })) {
        text += choices[0]?.text ?? '';
        tokens.push(...(choices[0]?.logprobs?.tokens ?? []));
        offsets.push(...(choices[0]?.logprobs?.text_offset ?? []));
      }
      expect(text).toBe(whole.choices[0]?.text);
      const logprobs = whole.choices[0]?.logprobs;
      expect(tokens).toEqual(logprobs?.tokens);
      expect(offsets).toEqual(logprobs?.text_offset);
      expect(tokens).toHaveLength(whole.usage?.completion_tokens ?? -1);
      expect(logprobs?.token_logprobs).toHaveLength(tokens.length);
      expect(Object.keys(logprobs?.top_logprobs?.[0] ?? {}).length).toBeGreaterThanOrEqual(1);
    });

    test('completions: echo with logprobs scores the prompt', async () => {
      const reply = await client.completions.create({
        model,
        prompt: 'One, two, three',
        echo: true,
        logprobs: 1,
        max_tokens: 0,
      });
      const { text, logprobs } = reply.choices[0] ?? {};
      expect(text).toBe('One, two, three');
      expect(logprobs?.tokens).toHaveLength(reply.usage?.prompt_tokens ?? -1);
      expect(logprobs?.token_logprobs?.[0]).toBeNull();
      expect(logprobs?.token_logprobs?.slice(1).every((value) => (value as number | null) !== null && value <= 0)).toBe(
        true,
      );
      expect(reply.usage?.completion_tokens).toBe(0);
    });

    test('completions: token ids in, token ids out', async () => {
      const prompt = 'The capital of France is';
      const withIds = { ...greedy, ...({ return_token_ids: true } as object) };
      const fromText = await client.completions.create({ ...withIds, prompt });
      const { prompt_token_ids: ids, token_ids: generated } = fromText.choices[0] as unknown as {
        readonly prompt_token_ids: number[];
        readonly token_ids: number[];
      };
      expect(ids).toHaveLength(fromText.usage?.prompt_tokens ?? -1);
      expect(generated).toHaveLength(fromText.usage?.completion_tokens ?? -1);
      const fromIds = await client.completions.create({ ...greedy, prompt: ids });
      expect(fromIds.choices[0]?.text).toBe(fromText.choices[0]?.text);
    });

    test('abort: breaking a stream off leaves the server well', async () => {
      const stream = await client.chat.completions.create({
        model,
        messages,
        stream: true,
        ...({ ignore_eos: true } as object),
      });
      let numChunks = 0;
      for await (const _ of stream) if (++numChunks === 3) stream.controller.abort();
      expect(numChunks).toBe(3);
      const { choices } = await client.chat.completions.create({ ...greedy, messages });
      expect(choices[0]?.message.content).toBe(await answer());
    });

    test('errors are the client’s own classes, with stable codes', async () => {
      const failure = async (call: PromiseLike<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> => {
        try {
          await call;
        } catch (error) {
          if (error instanceof OpenAI.APIError) return error;
          throw error;
        }
        throw new Error('the call succeeded');
      };
      const create = (body: object) =>
        failure(
          client.chat.completions.create({
            ...greedy,
            messages,
            ...body,
          } as OpenAI.ChatCompletionCreateParamsNonStreaming),
        );
      const unknownModel = await create({ model: 'no-such-model' });
      expect(unknownModel).toBeInstanceOf(OpenAI.NotFoundError);
      expect(unknownModel).toMatchObject({ status: 404, code: 'model_not_found', param: 'model' });
      expect(unknownModel.message).toContain(model);
      expect(unknownModel.requestID).toBeTruthy();
      const wrongType = await create({ temperature: 'hot' });
      expect(wrongType).toBeInstanceOf(OpenAI.BadRequestError);
      expect(wrongType).toMatchObject({ code: 'invalid_request', param: 'temperature', type: 'invalid_request_error' });
      const tools = await create({ tools: [{ type: 'function', function: { name: 'f' } }] });
      expect(tools).toMatchObject({ status: 400, code: 'unsupported_parameter', param: 'tools' });
      const json = await create({ response_format: { type: 'json_object' } });
      expect(json).toMatchObject({ status: 400, code: 'unsupported_parameter', param: 'response_format' });
      const tooLong = await create({ max_tokens: 10_000_000 });
      expect(tooLong).toMatchObject({ status: 400, code: 'context_length_exceeded' });
      const stream = await failure(
        client.chat.completions.create({ ...greedy, messages, model: 'no-such-model', stream: true }),
      );
      expect(stream).toMatchObject({ status: 404, code: 'model_not_found' });
    });

    test('a request id is taken and returned', async () => {
      const { response } = await client.chat.completions
        .create({ ...greedy, messages }, { headers: { 'x-request-id': 'trace-42' } })
        .withResponse();
      expect(response.headers.get('x-request-id')).toBe('trace-42');
    });
  });
}
