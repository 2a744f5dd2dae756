// What operators look at and do: health, readiness, metrics, the API description, shutting down.
import { connect } from 'node:net';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { chatChunk, chatReply } from '../../src/service/http/chat/schema.ts';
import { completionReply } from '../../src/service/http/completions/schema.ts';
import { readyReply } from '../../src/service/http/health/route.ts';
import { modelList } from '../../src/service/http/models/route.ts';
import { tokenizeReply } from '../../src/service/http/tokenize/schema.ts';
import { createHttpServer } from '../../src/service/http/server.ts';
import { createLog } from '../../src/common/log.ts';
import { FakeEngine } from '../fakes/fake-engine.ts';
import { FakeText } from '../fakes/fake-text.ts';
import { type Json, post, readEvents, startServer } from '../fakes/running-server.ts';

const messages = [{ role: 'user', content: 'hi' }];
const get = async (url: string): Promise<{ status: number; body: Json }> => {
  const reply = await fetch(url);
  return { status: reply.status, body: (await reply.json()) as Json };
};

describe('/health and /ready', () => {
  test('health is about this process, readiness about being served', async () => {
    await using server = await startServer();
    const { url, engine } = server;
    expect(await get(`${url}/ready`)).toEqual({ status: 200, body: { status: 'ready', model: 'fake-model' } });
    engine.die();
    expect(await get(`${url}/ready`)).toEqual({ status: 503, body: { status: 'starting', model: null } });
    expect(await get(`${url}/health`)).toEqual({ status: 200, body: { status: 'ok' } });
    engine.restart();
    expect((await get(`${url}/ready`)).status).toBe(200);
  });

  test('an engine that does not answer is not ready', async () => {
    await using server = await startServer();
    server.engine.isHung = true;
    expect(await get(`${server.url}/ready`)).toMatchObject({ status: 503, body: { status: 'stalled' } });
    // Metrics come all the same.
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toContain('xllm:engine_up{model_name="fake-model",engine="0"} 0');
  });

  test('an engine that finishes no step is not ready', async () => {
    await using server = await startServer({ config: { maxStallMs: 1000 } });
    server.engine.stalledMs = 1001;
    expect(await get(`${server.url}/ready`)).toMatchObject({ status: 503, body: { status: 'stalled' } });
    server.engine.stalledMs = 999;
    expect((await get(`${server.url}/ready`)).status).toBe(200);
  });
});

describe('/metrics', () => {
  test('has vLLM’s names, and figures that follow the requests', async () => {
    await using server = await startServer();
    const { url } = server;
    const chat = { messages, max_tokens: 5, ignore_eos: true, temperature: 0 };
    await post(`${url}/v1/chat/completions`, { ...chat, ttft_slo_ms: 1e6, tpot_slo_ms: 1e-3 });
    await (
      await fetch(`${url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ...chat, stream: true, n: 2 }),
      })
    ).text();
    await post(`${url}/v1/chat/completions`, { messages: [] });
    const text = await (await fetch(`${url}/metrics`)).text();
    const labels = '{model_name="fake-model",engine="0"}';
    const value = (name: string) =>
      Number(
        text
          .split('\n')
          .find((line) => line.startsWith(`${name} `))
          ?.split(' ')
          .at(-1),
      );
    expect(value(`vllm:generation_tokens_total${labels}`)).toBe(15);
    expect(value(`vllm:prompt_tokens_total${labels}`)).toBe(40);
    expect(value('vllm:request_success_total{model_name="fake-model",engine="0",finished_reason="length"}')).toBe(3);
    for (const [name, count] of [
      ['time_to_first_token_seconds', 2],
      ['inter_token_latency_seconds', 12],
      ['e2e_request_latency_seconds', 2],
      ['request_queue_time_seconds', 2],
      ['request_prefill_time_seconds', 2],
      ['request_decode_time_seconds', 2],
      ['request_prompt_tokens', 2],
      ['request_generation_tokens', 3],
      ['request_max_num_generation_tokens', 2],
      ['request_num_preemptions', 2],
    ] as const) {
      expect(value(`vllm:${name}_count${labels}`), name).toBe(count);
    }
    for (const name of ['num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc', 'num_preemptions_total'])
      expect(value(`vllm:${name}${labels}`), name).toBe(0);
    expect(value(`vllm:prefix_cache_queries_total${labels}`)).toBe(10);
    expect(value(`vllm:prefix_cache_hits_total${labels}`)).toBe(4);
    expect(value(`xllm:engine_steps_total${labels}`)).toBeGreaterThan(0);
    expect(value(`xllm:engine_event_loop_cpu_seconds_per_step${labels}`)).toBeCloseTo(1e-4, 9);
    expect(value('xllm:kv_pages{model_name="fake-model",engine="0",state="free"}')).toBe(90);
    expect(value('xllm:request_slo_total{model_name="fake-model",slo="ttft",met="true"}')).toBe(1);
    expect(value('xllm:request_slo_total{model_name="fake-model",slo="tpot",met="false"}')).toBe(1);
    expect(value('xllm:http_requests_total{method="POST",path="/v1/chat/completions",status="400"}')).toBe(1);
  });

  test('an engine that starts anew does not turn counters back', async () => {
    await using server = await startServer();
    const steps = async () => {
      const text = await (await fetch(`${server.url}/metrics`)).text();
      return Number(/xllm:engine_steps_total\{[^}]*\} (\d+)/.exec(text)?.[1]);
    };
    await post(`${server.url}/v1/completions`, { prompt: 'a', max_tokens: 5, ignore_eos: true });
    expect(await steps()).toBe(5);
    server.engine.die();
    server.engine.restart();
    await post(`${server.url}/v1/completions`, { prompt: 'a', max_tokens: 3, ignore_eos: true });
    expect(await steps()).toBe(8);
  });
});

describe('/openapi.json', () => {
  test('describes every route, with resolvable references', async () => {
    await using server = await startServer();
    const { body } = await get(`${server.url}/openapi.json`);
    expect(body).toMatchObject({ openapi: '3.1.0', info: { title: 'xLLM' } });
    expect(Object.keys(body.paths ?? {})).toEqual([
      '/v1/chat/completions',
      '/v1/completions',
      '/v1/models',
      '/v1/models/{model}',
      '/v1/cluster',
      '/tokenize',
      '/detokenize',
      '/health',
      '/ready',
      '/metrics',
      '/openapi.json',
    ]);
    const names = new Set(Object.keys(body.components?.schemas ?? {}));
    for (const [, name] of JSON.stringify(body).matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g))
      expect(names, name).toContain(name);
    for (const [, ref] of JSON.stringify(body).matchAll(/"\$ref":"([^"]+)"/g))
      expect(ref).toMatch(/^#\/components\/schemas\//);
    const fields = body.components?.schemas?.ChatRequest?.properties ?? {};
    expect(Object.keys(fields)).toEqual(expect.arrayContaining(['messages', 'top_k', 'priority', 'ttft_slo_ms']));
    expect(JSON.stringify(fields)).toContain('hash(seed, i)');
  });
});

describe('replies', () => {
  test('have exactly the described form', async () => {
    await using server = await startServer();
    const chat = { messages, max_tokens: 3, logprobs: true, top_logprobs: 2, return_token_ids: true };
    const strict = (schema: z.ZodObject, value: unknown) =>
      expect(z.strictObject(schema.shape).parse(value)).toEqual(value);
    strict(chatReply, (await post(`${server.url}/v1/chat/completions`, chat)).body);
    strict(chatReply, (await post(`${server.url}/v1/chat/completions`, { messages })).body);
    const completion = { prompt: 'a', max_tokens: 3, logprobs: 2, return_token_ids: true, echo: true };
    strict(completionReply, (await post(`${server.url}/v1/completions`, completion)).body);
    strict(tokenizeReply, (await post(`${server.url}/tokenize`, { prompt: 'a' })).body);
    strict(modelList, (await get(`${server.url}/v1/models`)).body);
    strict(readyReply, (await get(`${server.url}/ready`)).body);
    const stream = async (path: string, body: object) => {
      const reply = await fetch(server.url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      });
      return (await readEvents(reply)).slice(0, -1);
    };
    for (const chunk of await stream('/v1/chat/completions', chat)) strict(chatChunk, chunk);
    for (const chunk of await stream('/v1/completions', completion)) strict(completionReply, chunk);
  });
});

describe('shutting down', () => {
  test('drain refuses new requests and waits for running ones', async () => {
    await using server = await startServer({ engine: { stepMs: 20 } });
    const { url } = server;
    const running = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ messages, stream: true, max_tokens: 20, ignore_eos: true }),
    });
    expect(server.server.numRunning()).toBe(1);
    const drained = server.server.drain(60_000);
    expect(await get(`${url}/ready`)).toMatchObject({ status: 503, body: { status: 'draining' } });
    const refused = await post(`${url}/v1/completions`, { prompt: 'a' });
    expect(refused).toMatchObject({ status: 503, body: { error: { code: 'engine_unavailable' } } });
    expect(refused.headers.get('retry-after')).toBe('5');
    expect((await readEvents(running)).at(-1)).toBe('[DONE]');
    expect(await drained).toBe(0);
    await expect(fetch(`${url}/health`)).rejects.toThrow();
  });

  test('what is left at the deadline ends with an error', async () => {
    await using server = await startServer({ engine: { stepMs: 20 } });
    const call = { messages, ignore_eos: true };
    const running = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...call, stream: true }),
    });
    const whole = post(`${server.url}/v1/chat/completions`, call);
    while (server.server.numRunning() < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(await server.server.drain(50)).toBe(2);
    expect((await readEvents(running)).at(-1)).toMatchObject({ error: { code: 'engine_unavailable' } });
    expect(await whole).toMatchObject({ status: 503, body: { error: { code: 'engine_unavailable' } } });
  });

  test('idle keep-alive connections do not delay the end', async () => {
    const server = await startServer();
    const { hostname, port } = new URL(server.url);
    const socket = connect({ host: hostname, port: Number(port) });
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write('GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n');
    await new Promise((resolve) => socket.once('data', resolve));
    await server[Symbol.asyncDispose]();
    await closed;
  });

  test('a taken port says what to do', async () => {
    await using server = await startServer();
    const log = createLog({ format: 'json', level: 'silent' });
    const config = { port: Number(new URL(server.url).port) };
    const assetsOf = () => ({ text: new FakeText(), defaults: {} });
    const second = createHttpServer({ engine: new FakeEngine(), assetsOf, log, config });
    await expect(second.listen()).rejects.toMatchObject({
      code: 'address_in_use',
      message: expect.stringContaining('--port') as unknown,
    });
    await second.close();
  });

  test('another host without a key warns', async () => {
    await using server = await startServer({ config: { host: '0.0.0.0' } });
    expect(server.url).toMatch(/^http:\/\/127\.0\.0\.1:/);
    expect(
      server.lines.some(({ level, message }) => level === 'warn' && String(message).includes('XLLM_API_KEY')),
    ).toBe(true);
  });

  test('a client that goes in the middle of its body is no fault of ours', async () => {
    await using server = await startServer();
    const { hostname, port } = new URL(server.url);
    const socket = connect({ host: hostname, port: Number(port) });
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"a',
      () => setTimeout(() => socket.destroy(), 20),
    );
    await expect
      .poll(() => server.lines.filter(({ message }) => message === 'request').length, { timeout: 60_000 })
      .toBe(1);
    expect(server.lines.filter(({ level }) => level === 'error')).toEqual([]);
    expect(server.lines.at(-1)).toMatchObject({ error: 'request_cancelled' });
  });

  test('what is not HTTP gets an answer in the same shape', async () => {
    await using server = await startServer();
    const { hostname, port } = new URL(server.url);
    const socket = connect({ host: hostname, port: Number(port) });
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write('NONSENSE\r\n\r\n');
    await closed;
    expect(text).toMatch(/^HTTP\/1\.1 400 /);
    expect(text).toContain('x-request-id: ');
    expect(JSON.parse(text.split('\r\n\r\n')[1] ?? '')).toMatchObject({ error: { code: 'invalid_request' } });
  });
});
