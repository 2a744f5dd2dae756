// Streams: when headers leave, pings, errors after the headers, vanishing and slow readers, deadlines.
import { connect, type Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { fakeTokens } from '../fakes/fake-text.ts';
import { type Json, post, readEvents, type RunningServer, startServer, textOf } from '../fakes/running-server.ts';

const messages = [{ role: 'user', content: 'hi' }];
const endless = { messages, stream: true, ignore_eos: true };

const stream = (server: RunningServer, body: object, signal?: AbortSignal) =>
  fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });

async function eventually(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within a minute: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A client that sends a request by hand and reads only when told to. */
function rawClient(server: RunningServer, body: object): Socket {
  const { hostname, port } = new URL(server.url);
  const socket = connect({ host: hostname, port: Number(port) });
  const text = JSON.stringify(body);
  socket.on('error', () => {});
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
  return socket;
}

describe('an answer on its way', () => {
  test('headers leave at admission, pings fill the silence', async () => {
    await using server = await startServer({
      engine: { stepMs: 400 },
      config: { stream: { pingMs: 20, slowBytes: 1e6, slowMs: 1e6 } },
    });
    const reply = await stream(server, { messages, stream: true, max_tokens: 1 });
    expect(reply.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    // fetch resolves with the headers; the engine has not made a step yet.
    expect(server.engine.numRunning).toBe(1);
    const text = await reply.text();
    expect(text.split(': ping\n\n').length).toBeGreaterThan(3);
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
  });

  test('include_usage and continuous_usage_stats', async () => {
    await using server = await startServer();
    const body = { messages, stream: true, max_tokens: 4, ignore_eos: true };
    const events = async (options: object) =>
      (await readEvents(await stream(server, { ...body, stream_options: options }))).slice(0, -1) as Json[];
    const plain = (await readEvents(await stream(server, body))).slice(0, -1) as Json[];
    expect(plain.every((event) => !('usage' in event))).toBe(true);
    const last = await events({ include_usage: true });
    expect(last.slice(0, -1).every((event) => (event as { usage?: unknown }).usage === null)).toBe(true);
    expect(last.at(-1)).toMatchObject({
      choices: [],
      usage: { completion_tokens: 4, prompt_tokens_details: { cached_tokens: 19 } },
    });
    const each = await events({ continuous_usage_stats: true });
    expect(each.map((event) => Number(event.usage?.completion_tokens))).toEqual([1, 2, 3, 4, 4]);
  });

  test('characters of several tokens and stop strings across tokens are held back whole', async () => {
    const answer = 'Grüße 🗼 STOP and more';
    await using server = await startServer({ engine: { script: () => [...Buffer.from(answer)] } });
    const events = (await readEvents(await stream(server, { messages, stream: true, stop: ['STOP', 'zzz'] }))).slice(
      0,
      -1,
    ) as Json[];
    const texts = events.map((event) => textOf(event.choices?.[0]?.delta?.content));
    expect(texts.join('')).toBe('Grüße 🗼 ');
    expect(texts.some((text) => text.includes('\ufffd'))).toBe(false);
    expect(events.at(-1)?.choices?.[0]).toMatchObject({ finish_reason: 'stop', stop_reason: 'STOP', delta: {} });
    // The engine is told how many tokens count: up to the P of STOP.
    expect(server.engine.aborts).toMatchObject([{ choice: 0, keepTokens: Buffer.byteLength('Grüße 🗼 STOP') }]);
    const whole = await post(`${server.url}/v1/chat/completions`, {
      messages,
      stop: 'STOP',
      include_stop_str_in_output: true,
    });
    expect(whole.body.choices?.[0]?.message?.content).toBe('Grüße 🗼 STOP');
    expect(whole.body.usage?.completion_tokens).toBe(Buffer.byteLength('Grüße 🗼 STOP'));
  });

  test('a requested stop token counts, but its text is dropped', async () => {
    await using server = await startServer({ engine: { script: () => [...Buffer.from('ab!c')] } });
    const body = { messages, stop_token_ids: [0x21], return_token_ids: true };
    const { body: reply } = await post(`${server.url}/v1/chat/completions`, body);
    expect(reply.choices?.[0]).toMatchObject({
      message: { content: 'ab' },
      finish_reason: 'stop',
      stop_reason: 0x21,
      token_ids: [0x61, 0x62, 0x21],
    });
    expect(reply.usage).toMatchObject({ completion_tokens: 3 });
    const kept = await post(`${server.url}/v1/chat/completions`, { ...body, include_stop_str_in_output: true });
    expect(kept.body.choices?.[0]?.message?.content).toBe('ab!');
    // The model's own end token is no reason worth naming.
    const ended = await post(`${server.url}/v1/chat/completions`, { messages, return_token_ids: true });
    expect(ended.body.choices?.[0]).toMatchObject({
      message: { content: 'ab!c' },
      finish_reason: 'stop',
      stop_reason: null,
    });
    expect(ended.body.choices?.[0]?.token_ids?.[4]).toBe(fakeTokens.eos);
  });
});

describe('what goes wrong after the headers', () => {
  test('the engine dies: an error event ends the stream, without [DONE]', async () => {
    await using server = await startServer({ engine: { stepMs: 5 } });
    const reply = await stream(server, endless);
    const whole = post(`${server.url}/v1/chat/completions`, { messages, ignore_eos: true });
    await eventually(() => server.engine.numRunning === 2, 'both run');
    server.engine.die();
    const events = await readEvents(reply);
    expect(events.at(-1)).toMatchObject({ error: { code: 'engine_lost', type: 'server_error', param: null } });
    expect(events).not.toContain('[DONE]');
    expect(await whole).toMatchObject({ status: 503, body: { error: { code: 'engine_lost' } } });
    const lines = server.lines.filter(({ message, error }) => message === 'request' && error === 'engine_lost');
    expect(lines).toHaveLength(2);
    server.engine.restart();
    expect((await post(`${server.url}/v1/chat/completions`, { messages, max_tokens: 1 })).status).toBe(200);
  });

  test('a deadline ends streams and whole replies', async () => {
    await using server = await startServer({ engine: { stepMs: 20 }, config: { requestTimeoutMs: 100 } });
    const events = await readEvents(await stream(server, endless));
    expect(events.at(-1)).toMatchObject({ error: { code: 'deadline_exceeded' } });
    const whole = await post(`${server.url}/v1/chat/completions`, { messages, ignore_eos: true });
    expect(whole).toMatchObject({ status: 504, body: { error: { code: 'deadline_exceeded' } } });
    expect(server.engine.numRunning).toBe(0);
  });
});

describe('clients that go or stall', () => {
  test('vanishing aborts the engine, streaming or not', async () => {
    await using server = await startServer({ engine: { stepMs: 5 } });
    for (const isStream of [true, false]) {
      const abort = new AbortController();
      const call = stream(server, { ...endless, stream: isStream, n: 2 }, abort.signal).then((reply) => reply.text());
      call.catch(() => {});
      await eventually(() => server.engine.numRunning === 1, 'it runs');
      abort.abort();
      await expect(call).rejects.toThrow();
      await eventually(() => server.engine.numRunning === 0, 'it was aborted');
    }
    const lines = () => server.lines.filter(({ error }) => error === 'request_cancelled');
    await eventually(() => lines().length === 2, 'both were logged');
    expect(lines().map(({ finish }) => finish)).toEqual(['abort', 'abort']);
    expect(server.server.numRunning()).toBe(0);
  });

  test('a slow reader pauses the engine and resumes it when it reads again', async () => {
    const longText = [...Buffer.from('x'.repeat(400))];
    await using server = await startServer({
      engine: { script: () => longText, tokensPerStep: 10, maxModelLen: 100_000 },
      config: { stream: { pingMs: 1e6, slowBytes: 64 * 1024, slowMs: 60_000 } },
    });
    // Big events fill the kernel's socket buffers soon.
    const socket = rawClient(server, {
      ...endless,
      max_tokens: 400,
      logprobs: true,
      top_logprobs: 20,
      n: 20,
      ignore_eos: false,
    });
    socket.pause();
    await eventually(() => server.engine.numPauses > 0, 'the engine is paused');
    expect(server.engine.numRunning).toBe(1);
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text = (text + chunk.toString('latin1')).slice(-100);
    });
    socket.resume();
    await eventually(() => text.includes('data: [DONE]'), 'the rest arrived');
    expect(server.engine.numResumes).toBe(server.engine.numPauses);
    socket.destroy();
  });

  test('a reader that never reads again is cancelled', async () => {
    await using server = await startServer({
      engine: { tokensPerStep: 10, maxModelLen: 1_000_000 },
      config: { stream: { pingMs: 1e6, slowBytes: 64 * 1024, slowMs: 200 } },
    });
    const socket = rawClient(server, { ...endless, max_tokens: 900_000, logprobs: true, top_logprobs: 20, n: 60 });
    socket.pause();
    await eventually(() => server.engine.numPauses > 0, 'the engine is paused');
    await eventually(() => server.engine.numRunning === 0, 'the request is cancelled');
    await eventually(() => server.server.numRunning() === 0, 'the connection is gone');
    const isCancelled = ({ error, finish }: Record<string, unknown>) =>
      error === 'request_cancelled' && finish === 'abort';
    await eventually(() => server.lines.some(isCancelled), 'it was logged');
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toContain('xllm:slow_readers_total{outcome="cancelled"} 1');
    expect(metrics).toContain('xllm:http_streams_open 0');
    socket.destroy();
  });
});
