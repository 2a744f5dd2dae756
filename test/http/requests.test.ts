// What requests may say, and how they are refused when they say something else.
import { describe, expect, test } from 'vitest';
import { int32OfBytes } from '../../src/contract/codec.ts';
import { choiceSeed } from '../../src/common/seed.ts';
import { fakeTokens } from '../fakes/fake-text.ts';
import { type Json, post, startServer, textOf } from '../fakes/running-server.ts';

const messages = [{ role: 'user', content: 'hi' }];

describe('refusals', () => {
  const chat: readonly (readonly [string, object, string, string | null])[] = [
    ['no messages', { messages: [] }, 'invalid_request', 'messages'],
    ['messages that are no list', { messages: 'hi' }, 'invalid_request', 'messages'],
    ['an unknown role', { messages: [{ role: 'robot', content: 'x' }] }, 'invalid_request', 'messages[0].role'],
    ['no content', { messages: [{ role: 'user' }] }, 'invalid_request', 'messages[0].content'],
    [
      'an image',
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
      'unsupported_parameter',
      'messages[0].content[0].type',
    ],
    [
      'a part without text',
      { messages: [{ role: 'user', content: [{ type: 'text' }] }] },
      'invalid_request',
      'messages[0].content[0].text',
    ],
    ['a tool message', { messages: [{ role: 'tool', content: 'x' }] }, 'unsupported_parameter', 'messages[0].role'],
    [
      'tool calls',
      { messages: [{ role: 'assistant', tool_calls: [{}] }] },
      'unsupported_parameter',
      'messages[0].tool_calls',
    ],
    ['tools', { tools: [{ type: 'function' }] }, 'unsupported_parameter', 'tools'],
    ['tool_choice', { tool_choice: 'auto' }, 'unsupported_parameter', 'tool_choice'],
    ['functions', { functions: [{}] }, 'unsupported_parameter', 'functions'],
    ['a response format', { response_format: { type: 'json_schema' } }, 'unsupported_parameter', 'response_format'],
    ['audio', { modalities: ['text', 'audio'] }, 'unsupported_parameter', 'modalities'],
    ['guided decoding', { guided_json: {} }, 'unsupported_parameter', 'guided_json'],
    ['a temperature out of range', { temperature: -1 }, 'invalid_request', 'temperature'],
    ['a temperature that is no number', { temperature: '1' }, 'invalid_request', 'temperature'],
    ['n of 0', { n: 0 }, 'invalid_request', 'n'],
    ['n beyond the limit', { n: 129 }, 'invalid_request', 'n'],
    ['an empty stop', { stop: '' }, 'invalid_request', 'stop'],
    ['too many stops', { stop: Array.from({ length: 17 }, (_, i) => `s${i}`) }, 'invalid_request', 'stop'],
    ['a bias on a token that is none', { logit_bias: { 9999: 1 } }, 'invalid_request', 'logit_bias'],
    ['a bias on a word', { logit_bias: { hello: 1 } }, 'invalid_request', 'logit_bias.hello'],
    ['a bias out of range', { logit_bias: { 5: 101 } }, 'invalid_request', 'logit_bias.5'],
    ['a stop token out of range', { stop_token_ids: [320] }, 'invalid_request', 'stop_token_ids'],
    ['top_logprobs without logprobs', { top_logprobs: 2 }, 'invalid_request', 'top_logprobs'],
    ['too many alternatives', { logprobs: true, top_logprobs: 21 }, 'invalid_request', 'top_logprobs'],
    [
      'stream options without a stream',
      { stream_options: { include_usage: true } },
      'invalid_request',
      'stream_options',
    ],
    ['a length that never fits', { max_tokens: 5000 }, 'context_length_exceeded', 'messages'],
    ['min_tokens above max_tokens', { max_tokens: 3, min_tokens: 4 }, 'invalid_request', 'min_tokens'],
    [
      'both prompt endings',
      { add_generation_prompt: true, continue_final_message: true },
      'invalid_request',
      'continue_final_message',
    ],
    ['a template that fails', { chat_template_kwargs: { fail: true } }, 'template_failed', null],
    ['a seed that is no integer', { seed: 0.5 }, 'invalid_request', 'seed'],
    ['an empty salt', { cache_salt: '' }, 'invalid_request', 'cache_salt'],
    ['another model', { model: 'gpt-x' }, 'model_not_found', 'model'],
  ];
  const completions: readonly (readonly [string, object, string, string | null])[] = [
    ['no prompt', {}, 'invalid_request', 'prompt'],
    ['an empty list', { prompt: [] }, 'invalid_request', 'prompt'],
    ['a mixed list', { prompt: ['a', 1] }, 'invalid_request', 'prompt'],
    ['a token out of range', { prompt: [1, 320] }, 'invalid_request', 'prompt'],
    ['a negative token', { prompt: [[1], [-1]] }, 'invalid_request', 'prompt'],
    ['a token that is no integer', { prompt: [1.5] }, 'invalid_request', 'prompt'],
    ['no token at all', { prompt: '', add_special_tokens: false }, 'invalid_request', 'prompt'],
    ['a suffix', { prompt: 'a', suffix: 'b' }, 'unsupported_parameter', 'suffix'],
    ['best_of', { prompt: 'a', best_of: 3 }, 'unsupported_parameter', 'best_of'],
    ['nothing to do', { prompt: 'a', max_tokens: 0 }, 'invalid_request', 'max_tokens'],
    ['a prompt beyond the context', { prompt: 'a'.repeat(3000) }, 'context_length_exceeded', 'prompt'],
    ['too many choices', { prompt: Array.from({ length: 100 }, () => 'a'), n: 100 }, 'invalid_request', 'n'],
  ];

  test('name the field and carry a stable code', async () => {
    await using server = await startServer();
    const cases = [
      ...chat.map(
        ([what, body, code, param]) => ['/v1/chat/completions', what, { messages, ...body }, code, param] as const,
      ),
      ...completions.map(([what, body, code, param]) => ['/v1/completions', what, body, code, param] as const),
    ];
    for (const [path, what, body, code, param] of cases) {
      const { status, body: reply } = await post(server.url + path, body);
      expect({ what, status, ...reply.error }).toMatchObject({
        what,
        status: code === 'model_not_found' ? 404 : 400,
        code,
        param,
        type: 'invalid_request_error',
      });
      expect(textOf(reply.error?.message).length).toBeGreaterThan(10);
    }
    expect(server.engine.requests).toEqual([]);
  });

  test('of bodies that are no JSON objects', async () => {
    await using server = await startServer({ config: { maxBodyBytes: 1000 } });
    const url = `${server.url}/v1/completions`;
    const nested = `{"prompt":"a","x":${'['.repeat(100)}${']'.repeat(100)}}`;
    const proto = '{"prompt":"a","__proto__":{"temperature":0}}';
    for (const body of ['', '{', 'null', '3', '[]', '"x"', '{"prompt":"a"', nested, proto, '\u0000']) {
      const reply = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
      expect({ body, status: reply.status }).toEqual({ body, status: 400 });
      expect(((await reply.json()) as Json).error).toMatchObject({ code: 'invalid_request' });
    }
    const large = await post(url, { prompt: 'a'.repeat(2000) });
    expect(large).toMatchObject({ status: 413, body: { error: { code: 'body_too_large' } } });
    const zipped = await post(url, { prompt: 'a' }, { 'content-encoding': 'gzip' });
    expect(zipped).toMatchObject({ status: 400, body: { error: { code: 'invalid_request' } } });
  });

  test('harmless values of unsupported fields pass, unknown fields leave a debug line', async () => {
    await using server = await startServer();
    const body = {
      messages,
      max_tokens: 2,
      tools: [],
      tool_choice: 'none',
      functions: null,
      response_format: { type: 'text' },
      modalities: ['text'],
      service_tier: 'auto',
      user: 'u',
      store: false,
      bad_words: [],
      frobnicate: true,
      constructor: 1,
    };
    expect((await post(`${server.url}/v1/chat/completions`, body)).status).toBe(200);
    const line = server.lines.find(({ message }) => String(message).includes('unknown'));
    expect(line).toMatchObject({ level: 'debug', count: 2, fields: '"frobnicate","constructor"' });
  });

  test('a model without tokenizer serves token ids and refuses text', async () => {
    await using server = await startServer({ text: { hasTokenizer: false } });
    const url = `${server.url}/v1/completions`;
    const ids = await post(url, { prompt: [1, 2, 3], max_tokens: 3, logprobs: 1, temperature: 0, ignore_eos: true });
    expect(ids.status).toBe(200);
    expect(ids.body.choices?.[0]).toMatchObject({ text: '', finish_reason: 'length' });
    expect(ids.body.choices?.[0]?.token_ids).toHaveLength(3);
    expect(textOf(ids.body.choices?.[0]?.logprobs?.tokens?.[0])).toMatch(/^token_id:\d+$/);
    for (const [path, body] of [
      ['/v1/completions', { prompt: 'text' }],
      ['/v1/completions', { prompt: [1], stop: 'x' }],
      ['/v1/chat/completions', { messages }],
      ['/tokenize', { prompt: 'text' }],
      ['/detokenize', { tokens: [1] }],
    ] as const) {
      expect(await post(server.url + path, body)).toMatchObject({
        status: 400,
        body: { error: { code: 'tokenizer_missing' } },
      });
    }
  });

  test('a model without a chat template says where to go', async () => {
    await using server = await startServer({ text: { hasChatTemplate: false } });
    const { body } = await post(`${server.url}/v1/chat/completions`, { messages });
    expect(body.error).toMatchObject({ code: 'template_failed' });
    expect(textOf(body.error?.message)).toContain('/v1/completions');
  });

  test('the engine’s refusals keep their code and say when to retry', async () => {
    await using server = await startServer({
      engine: { refuse: () => ({ refused: 'overloaded', message: 'too much', retryAfterS: 2.2 }) },
    });
    const reply = await post(`${server.url}/v1/chat/completions`, { messages, stream: true });
    expect(reply).toMatchObject({ status: 503, body: { error: { code: 'overloaded', type: 'server_error' } } });
    expect(reply.headers.get('retry-after')).toBe('3');
    server.engine.die();
    const dead = await post(`${server.url}/v1/completions`, { prompt: 'a' });
    expect(dead).toMatchObject({ status: 503, body: { error: { code: 'engine_unavailable' } } });
    expect(dead.headers.get('retry-after')).toBe('1');
  });
});

describe('what reaches the engine', () => {
  test('defaults: those of the model, else vLLM’s', async () => {
    await using server = await startServer({
      defaults: { temperature: 0.25, topK: 7 },
    });
    await post(`${server.url}/v1/completions`, { prompt: 'abc' });
    await post(`${server.url}/v1/chat/completions`, { messages });
    const [completion, chat] = server.engine.requests;
    expect(completion?.sampling).toMatchObject({
      temperature: 0.25,
      topK: 7,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      minTokens: 0,
      ignoreEos: false,
      numLogprobs: -1,
      numPromptLogprobs: -1,
    });
    expect(completion).toMatchObject({ maxTokens: 16, priority: 0, offline: false, cacheSalt: '', deadlineMs: 0 });
    expect(completion?.promptIds).toEqual(Int32Array.of(fakeTokens.bos, 97, 98, 99));
    expect(completion?.seeds).toEqual([1n]);
    expect(chat?.seeds).toEqual([2n]);
    // What fits.
    expect(chat?.maxTokens).toBe(2048 - (chat?.promptIds.length ?? 0));
  });

  test('every field', async () => {
    await using server = await startServer({ config: { requestTimeoutMs: 60_000 } });
    await post(`${server.url}/v1/completions`, {
      prompt: [5, 6],
      n: 3,
      seed: 9,
      temperature: 0.5,
      top_p: 0.9,
      top_k: 40,
      min_p: 0.1,
      repetition_penalty: 1.1,
      presence_penalty: 0.5,
      frequency_penalty: -0.5,
      logit_bias: { 7: -100, 3: 2 },
      max_tokens: 9,
      min_tokens: 2,
      ignore_eos: true,
      stop_token_ids: [65],
      logprobs: 4,
      echo: true,
      priority: -3,
      offline: true,
      cache_salt: 'tenant',
    });
    const [request] = server.engine.requests;
    expect(request).toMatchObject({
      model: 'fake-model',
      maxTokens: 9,
      priority: -3,
      offline: true,
      cacheSalt: 'tenant',
      deadlineMs: 60_000,
    });
    expect(request?.seeds).toEqual([9n, choiceSeed(9n, 1), choiceSeed(9n, 2)]);
    expect(request?.sampling).toMatchObject({
      temperature: 0.5,
      topP: 0.9,
      topK: 40,
      minP: 0.1,
      repetitionPenalty: 1.1,
      presencePenalty: 0.5,
      frequencyPenalty: -0.5,
      minTokens: 2,
      ignoreEos: true,
      numLogprobs: 4,
      numPromptLogprobs: 4,
    });
    expect(request?.sampling.logitBias).toMatchObject([
      { tokenId: 3, bias: 2 },
      { tokenId: 7, bias: -100 },
    ]);
    expect(request && int32OfBytes(request.sampling.stopTokenIds)).toEqual(Int32Array.of(65));
  });

  test('messages: roles, parts and template variables', async () => {
    await using server = await startServer();
    await post(`${server.url}/v1/chat/completions`, {
      messages: [
        { role: 'developer', content: 'be brief' },
        {
          role: 'user',
          name: 'ann',
          content: [
            { type: 'text', text: 'one' },
            { type: 'text', text: 'two' },
          ],
        },
        { role: 'assistant', content: 'so' },
      ],
      continue_final_message: true,
      chat_template_kwargs: { enable_thinking: false },
      reasoning_effort: 'low',
      max_tokens: 1,
    });
    expect(server.text.lastChat).toEqual({
      messages: [
        { role: 'system', content: 'be brief' },
        { role: 'user', name: 'ann', content: 'one\ntwo' },
        { role: 'assistant', content: 'so' },
      ],
      addGenerationPrompt: false,
      continueFinalMessage: true,
      kwargs: { enable_thinking: false, reasoning_effort: 'low' },
      tools: null,
    });
  });

  test('spelled-out control tokens are text unless asked for', async () => {
    await using server = await startServer();
    await post(`${server.url}/v1/completions`, { prompt: '</s>', max_tokens: 1 });
    await post(`${server.url}/v1/completions`, { prompt: '</s>', max_tokens: 1, parse_special_tokens: true });
    const [plain, parsed] = server.engine.requests;
    expect(plain?.promptIds).toEqual(Int32Array.of(fakeTokens.bos, ...Buffer.from('</s>')));
    expect(parsed?.promptIds).toEqual(Int32Array.of(fakeTokens.bos, fakeTokens.eos));
  });

  test('tokens spelled as ids', async () => {
    await using server = await startServer();
    const body = { max_tokens: 1, ignore_eos: true, return_tokens_as_token_ids: true };
    const chat = await post(`${server.url}/v1/chat/completions`, {
      ...body,
      messages,
      logprobs: true,
      top_logprobs: 1,
    });
    const [entry] = (chat.body.choices?.[0]?.logprobs?.content ?? []) as unknown as Json[];
    expect(textOf(entry?.token)).toMatch(/^token_id:\d+$/);
    expect(entry?.top_logprobs?.[0]?.token).toBe(entry?.token);
    const text = await post(`${server.url}/v1/completions`, { ...body, prompt: 'a', logprobs: 1 });
    const { tokens, top_logprobs: top } = text.body.choices?.[0]?.logprobs ?? {};
    expect(Object.keys(top?.[0] ?? {})).toEqual([tokens?.[0]]);
  });

  test('several served names', async () => {
    await using server = await startServer({ config: { servedModelNames: ['big', 'org/small'] } });
    const list = (await (await fetch(`${server.url}/v1/models`)).json()) as Json;
    expect([...(list.data as unknown as Json[])].map(({ id }) => id)).toEqual(['big', 'org/small']);
    for (const model of ['big', 'org/small', undefined, null]) {
      const reply = await post(`${server.url}/v1/completions`, { model, prompt: 'a', max_tokens: 1 });
      expect(reply).toMatchObject({ status: 200, body: { model: 'big' } });
    }
    expect((await fetch(`${server.url}/v1/models/org/small`)).status).toBe(200);
    expect((await fetch(`${server.url}/v1/models/fake-model`)).status).toBe(404);
    const other = await post(`${server.url}/v1/completions`, { model: 'fake-model', prompt: 'a' });
    expect(other.status).toBe(404);
    expect(textOf(other.body.error?.message)).toContain('big, org/small');
  });
});

describe('/tokenize and /detokenize', () => {
  test('have vLLM’s shapes', async () => {
    await using server = await startServer();
    const tokenize = (body: object) => post(`${server.url}/tokenize`, body);
    expect((await tokenize({ prompt: 'hé' })).body).toEqual({
      count: 4,
      max_model_len: 2048,
      tokens: [fakeTokens.bos, 104, 195, 169],
      token_strs: null,
    });
    const plain = await tokenize({ prompt: 'ab', add_special_tokens: false, return_token_strs: true });
    expect(plain.body).toMatchObject({ tokens: [97, 98], token_strs: ['a', 'b'] });
    const chat = await tokenize({ messages, add_generation_prompt: false });
    expect(chat.body.tokens?.[0]).toBe(fakeTokens.turnStart);
    expect((await tokenize({})).status).toBe(400);
    expect((await tokenize({ prompt: 'a', messages })).status).toBe(400);
    const back = await post(`${server.url}/detokenize`, { tokens: [fakeTokens.bos, 104, 195, 169] });
    expect(back.body).toEqual({ prompt: '<s>hé' });
    expect((await post(`${server.url}/detokenize`, { tokens: [320] })).status).toBe(400);
    expect((await post(`${server.url}/detokenize`, { tokens: 'x' })).status).toBe(400);
  });
});
