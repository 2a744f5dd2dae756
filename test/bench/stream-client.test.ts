import type { ServerResponse } from 'node:http';
import { describe, expect, it } from 'vitest';
import { type BenchClock, systemClock } from '../../src/cli/bench/clock.ts';
import { summarise } from '../../src/cli/bench/metrics.ts';
import { StreamClient, type StreamTarget } from '../../src/cli/bench/stream-client.ts';
import { echoScript, type FakeServer, type Script, sse, startFakeServer } from './fake-server.ts';

/** Time that stands still until the script moves it, and tells when the client has looked. */
class SteppedClock implements BenchClock {
  #ms = 0;
  #onRead = (): void => {};

  now(): number {
    this.#onRead();
    return this.#ms;
  }

  sleep(): Promise<void> {
    throw new Error('the client does not sleep');
  }

  /** Writes at time `ms` and waits until the client has stamped it. */
  async write(ms: number, response: ServerResponse, text: string): Promise<void> {
    this.#ms = ms;
    await new Promise<void>((resolve) => {
      this.#onRead = resolve;
      response.write(text);
    });
  }
}

const never = new AbortController().signal;

function clientOf(server: FakeServer, clock: BenchClock = systemClock, more: Partial<StreamTarget> = {}): StreamClient {
  return new StreamClient(
    { url: new URL(`${server.url}/v1/completions`), headers: {}, isKeepAlive: false, timeoutMs: 60_000, ...more },
    clock,
  );
}

async function recordOf(script: Script, clock: BenchClock = systemClock, more: Partial<StreamTarget> = {}) {
  await using server = await startFakeServer(script);
  const client = clientOf(server, clock, more);
  const record = await client.send('{"max_tokens":3}', 42, 7, never);
  client.close();
  return record;
}

describe('StreamClient', () => {
  it('stamps every chunk with a choice, once per network read, and takes counts from usage', async () => {
    const clock = new SteppedClock();
    const record = await recordOf(async (_, response) => {
      await clock.write(100, response, sse.text('a'));
      await clock.write(130, response, ': ping\n\n');
      await clock.write(150, response, sse.text('') + sse.text('b'));
      await clock.write(180, response, sse.text('c').slice(0, 9));
      await clock.write(190, response, sse.text('c').slice(9));
      await clock.write(195, response, sse.usage(12, 5, 8));
      response.end(sse.done);
    }, clock);
    expect(record).toEqual({
      outcome: 'ok',
      error: '',
      startMs: 0,
      queueMs: 7,
      chunkMs: [100, 150, 150, 190],
      promptTokens: 12,
      cachedTokens: 8,
      outputTokens: 5,
      isUsageReported: true,
    });
    const summary = summarise([record], 1000);
    expect([summary.ttftMs?.mean, summary.tpotMs?.mean, summary.e2elMs?.mean]).toEqual([100, 22.5, 190]);
  });

  it('does not count a chat stream that only names the role, but every other delta', async () => {
    const clock = new SteppedClock();
    const record = await recordOf(async (_, response) => {
      await clock.write(1, response, sse.delta({ role: 'assistant', content: '' }));
      await clock.write(50, response, sse.delta({ content: 'Hi' }));
      await clock.write(60, response, sse.delta({ reasoning_content: 'hm' }));
      await clock.write(70, response, sse.delta({}, 'stop'));
      response.end(sse.done);
    }, clock);
    expect(record).toMatchObject({
      outcome: 'ok',
      chunkMs: [50, 60, 70],
      outputTokens: 3,
      promptTokens: 42,
      isUsageReported: false,
    });
  });

  it.each<[string, Script, RegExp]>([
    [
      'an HTTP error',
      (_, response) => void response.writeHead(503).end('{"error":{"message":"full"}}'),
      /^HTTP 503: .*full/,
    ],
    [
      'an error event',
      (_, response) => void response.end(`${sse.text('a')}data: {"error":{"message":"lost"}}\n\n${sse.done}`),
      /lost/,
    ],
    ['no token', (_, response) => void response.end(sse.done), /without a token/],
    ['no [DONE]', (_, response) => void response.end(sse.text('a')), /before \[DONE\]/],
    ['no JSON', (_, response) => void response.end('data: {oops\n\n'), /no JSON/],
    ['a reset connection', (_, response) => void response.destroy(), /hang up|ECONNRESET/],
    [
      'a connection reset in mid-stream',
      (_, response) => void response.write(sse.text('a'), () => setTimeout(() => response.destroy(), 20)),
      /aborted|ECONNRESET/,
    ],
  ])('records %s as a failure', async (_, script, error) => {
    const record = await recordOf(script);
    expect(record.outcome).toBe('failed');
    expect(record.error).toMatch(error);
  });

  it('gives up after the time-out, before or after the first token', async () => {
    const silent = await recordOf(() => {}, systemClock, { timeoutMs: 30 });
    expect(silent).toMatchObject({ outcome: 'failed', error: 'no complete answer within 0.03 s' });
    const stuck = await recordOf((_, response) => void response.write(sse.text('a')), systemClock, { timeoutMs: 200 });
    expect(stuck).toMatchObject({ outcome: 'failed', error: 'no complete answer within 0.2 s' });
  });

  it('records an abort as neither success nor failure', async () => {
    await using server = await startFakeServer((_, response) => void response.write(sse.text('a')));
    const client = clientOf(server);
    const controller = new AbortController();
    const pending = Array.from({ length: 20 }, () => client.send('{}', 1, 0, controller.signal));
    setTimeout(() => controller.abort(), 50);
    for (const record of await Promise.all(pending)) expect(record).toMatchObject({ outcome: 'aborted', error: '' });
    client.close();
  });

  it('reuses connections only when told to', async () => {
    for (const isKeepAlive of [true, false]) {
      await using server = await startFakeServer(echoScript);
      const client = clientOf(server, systemClock, { isKeepAlive });
      for (let i = 0; i < 4; i++) expect((await client.send('{"max_tokens":2}', 1, 0, never)).outcome).toBe('ok');
      expect(new Set(server.requests.map((request) => request.socketId)).size).toBe(isKeepAlive ? 1 : 4);
      client.close();
    }
  });
});
