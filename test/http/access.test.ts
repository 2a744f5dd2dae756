// Who may reach the server: keys, hosts, origins; and what every reply carries.
import { request as rawRequest } from 'node:http';
import { describe, expect, test } from 'vitest';
import { type Json, post, startServer } from '../fakes/running-server.ts';

const chat = { messages: [{ role: 'user', content: 'hi' }], max_tokens: 2 };

/** A request with a Host header of one's own, which fetch does not allow. */
function withHost(url: string, host: string, path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const request = rawRequest(`${url}${path}`, { headers: { host }, agent: false }, (reply) => {
      let body = '';
      reply.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      reply.on('end', () => resolve({ status: reply.statusCode ?? 0, body }));
    });
    request.on('error', reject);
    request.end();
  });
}

describe('API keys', () => {
  test('cover everything but health, readiness and the page', async () => {
    await using server = await startServer({ config: { apiKeys: ['first-key', 'second-key'] } });
    const { url } = server;
    const open = ['/health', '/ready', '/', '/page/style.css', '/page/page.js'];
    const closed = ['/v1/models', '/v1/models/fake-model', '/metrics', '/openapi.json', '/nothing-here'];
    for (const path of open) expect((await fetch(url + path)).status, path).toBe(200);
    for (const path of closed) {
      const reply = await fetch(url + path);
      expect(reply.status, path).toBe(401);
      expect(((await reply.json()) as Json).error).toMatchObject({
        code: 'invalid_api_key',
        type: 'authentication_error',
        param: null,
      });
      expect(reply.headers.get('www-authenticate')).toBe('Bearer');
    }
    for (const path of ['/v1/chat/completions', '/v1/completions', '/tokenize', '/detokenize'])
      expect((await post(url + path, chat)).status, path).toBe(401);
    for (const key of ['first-key', 'second-key'])
      expect((await post(`${url}/v1/chat/completions`, chat, { authorization: `Bearer ${key}` })).status).toBe(200);
    for (const authorization of [
      'Bearer third',
      'Bearer ',
      'Basic first-key',
      'first-key',
      'Bearer first-key second-key',
    ])
      expect((await post(`${url}/v1/chat/completions`, chat, { authorization })).status, authorization).toBe(401);
    // HEAD is GET without its body: neither wider open nor narrower.
    expect((await fetch(`${url}/v1/models`, { method: 'HEAD' })).status).toBe(401);
    expect((await fetch(`${url}/health`, { method: 'HEAD' })).status).toBe(200);
    // With keys any name may lead here: a foreign page does not know them.
    expect((await withHost(url, 'models.example.com', '/v1/models')).status).toBe(401);
    // Neither keys nor prompts reach the log.
    expect(JSON.stringify(server.lines)).not.toMatch(/first-key|second-key|third/);
  });

  test('are not asked for where none is set', async () => {
    await using server = await startServer();
    expect((await post(`${server.url}/v1/chat/completions`, chat, { authorization: 'Bearer any' })).status).toBe(200);
  });
});

describe('foreign Host headers', () => {
  test('are refused on loopback without a key', async () => {
    await using server = await startServer({ config: { allowedHosts: ['gateway.test'] } });
    const { url } = server;
    const port = new URL(url).port;
    for (const host of [
      `127.0.0.1:${port}`,
      'localhost',
      `LOCALHOST:${port}`,
      '[::1]:80',
      'app.localhost',
      'gateway.test:1',
    ])
      expect((await withHost(url, host, '/v1/models')).status, host).toBe(200);
    for (const host of [
      'evil.example',
      `evil.example:${port}`,
      '127.0.0.1.evil.example',
      '10.0.0.1',
      'localhost.',
      'a@localhost',
    ]) {
      const reply = await withHost(url, host, '/v1/models');
      expect(reply.status, host).toBe(403);
      expect(reply.body).toContain('forbidden_host');
      expect((await withHost(url, host, '/')).status, host).toBe(403);
    }
    expect((await withHost(url, 'evil.example', '/health')).status).toBe(200);
  });
});

describe('CORS', () => {
  const preflight = {
    method: 'OPTIONS',
    headers: {
      origin: 'https://app.test',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'content-type,authorization',
    },
  };

  test('is off by default', async () => {
    await using server = await startServer();
    const reply = await fetch(`${server.url}/v1/chat/completions`, preflight);
    expect(reply.status).toBe(204);
    expect(reply.headers.get('access-control-allow-origin')).toBeNull();
    expect(reply.headers.get('allow')).toBe('POST');
    // A page cannot reach the API with a form either: only JSON is taken, and that needs a preflight.
    const form = await fetch(`${server.url}/v1/chat/completions`, { method: 'POST', body: JSON.stringify(chat) });
    expect(form.status).toBe(400);
    expect(((await form.json()) as Json).error?.message).toContain('application/json');
  });

  test('lets the configured origins in, on streams too', async () => {
    await using server = await startServer({ config: { corsOrigins: ['https://app.test'], apiKeys: ['k'] } });
    const reply = await fetch(`${server.url}/v1/chat/completions`, preflight);
    expect(reply.status).toBe(204);
    expect(Object.fromEntries(reply.headers)).toMatchObject({
      'access-control-allow-origin': 'https://app.test',
      'access-control-allow-methods': 'POST',
      'access-control-allow-headers': 'content-type,authorization',
      vary: 'origin',
    });
    const ask = (origin: string, stream: boolean) =>
      fetch(`${server.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { origin, 'content-type': 'application/json', authorization: 'Bearer k' },
        body: JSON.stringify({ ...chat, stream }),
      });
    for (const stream of [true, false]) {
      const ours = await ask('https://app.test', stream);
      expect(ours.headers.get('access-control-allow-origin')).toBe('https://app.test');
      await ours.text();
      const other = await ask('https://other.test', stream);
      expect(other.headers.get('access-control-allow-origin')).toBeNull();
      await other.text();
    }
  });
});

describe('request ids', () => {
  test('are taken where harmless, minted otherwise, and on every reply', async () => {
    await using server = await startServer();
    const { url } = server;
    const idOf = async (path: string, id?: string) =>
      (await fetch(url + path, id === undefined ? {} : { headers: { 'x-request-id': id } })).headers.get(
        'x-request-id',
      );
    expect(await idOf('/health', 'my-id_1.2:3')).toBe('my-id_1.2:3');
    expect(await idOf('/nothing', 'abc')).toBe('abc');
    for (const bad of ['has space', 'a'.repeat(129), 'semi;colon', '<x>'])
      expect(await idOf('/health', bad)).not.toBe(bad);
    expect(await idOf('/v1/models')).toMatch(/^[0-9a-f-]{36}$/);
    expect(await idOf('/%zz')).toBeTruthy();
    const reply = await post(`${url}/v1/chat/completions`, chat, { 'x-request-id': 'same' });
    expect(reply.body.id).toBe('chatcmpl-same');
    // On the RPC too, and unique there even when a client uses one id twice at a time.
    await Promise.all([1, 2, 3].map(() => post(`${url}/v1/chat/completions`, chat, { 'x-request-id': 'same' })));
    const ids = server.engine.requests.map(({ requestId }) => requestId);
    expect(ids.every((id) => id.startsWith('same.'))).toBe(true);
    expect(new Set(ids).size).toBe(4);
  });
});
