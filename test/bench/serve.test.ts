import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import type { BenchIo } from '../../src/cli/bench/io.ts';
import { benchServe } from '../../src/cli/bench/serve.ts';
import { benchServeSchema, parseGoodput } from '../../src/cli/bench/serve-options.ts';
import { echoScript, sse, startFakeServer } from './fake-server.ts';

const folder = mkdtempSync(join(tmpdir(), 'xllm-bench-'));
afterAll(() => rmSync(folder, { recursive: true }));

function terminal(signal = new AbortController().signal, env = {}): BenchIo & { text: string } {
  const io = {
    text: '',
    stdout: { write: (text: string) => void (io.text += text) },
    stderr: { write: () => {} },
    signal,
    env,
  };
  return io;
}

const optionsOf = (values: object) => benchServeSchema.parse(values);
const traceFile = fileURLToPath(new URL('../fixtures/traces/azure-conv.csv', import.meta.url));

describe('bench serve', () => {
  it('sends what was asked for, and reports it as a table and as JSON', async () => {
    await using server = await startFakeServer(echoScript);
    const io = terminal(undefined, { XLLM_API_KEY: 'secret' });
    const json = join(folder, 'result.json');
    const options = optionsOf({
      url: `${server.url}/v1/`,
      numPrompts: 12,
      numWarmups: 2,
      randomInputLen: 20,
      randomOutputLen: 5,
      prefixLen: 4,
      maxConcurrency: 3,
      ignoreEos: true,
      goodput: ['ttft:60000', 'e2el:60000'],
      extraBody: '{"priority": 3}',
      json,
    });
    expect(await benchServe(options, io)).toBe(0);
    expect(server.requests).toHaveLength(14);
    const measured = server.requests.slice(2);
    for (const { path, body, headers } of measured) {
      expect(path).toBe('/v1/completions');
      expect(headers.authorization).toBe('Bearer secret');
      expect(body).toMatchObject({ model: 'fake-model', max_tokens: 5, temperature: 0, ignore_eos: true, priority: 3 });
      expect(body).toMatchObject({ stream: true, stream_options: { include_usage: true } });
      expect(body.prompt).toHaveLength(24);
    }
    const prefixes = server.requests.map(({ body }) => String((body.prompt as number[]).slice(0, 4)));
    expect(new Set(prefixes.slice(2)).size).toBe(1);
    expect(prefixes[0]).not.toBe(prefixes[2]); // warm-ups leave no measured prefix in a cache
    expect(io.text).toMatch(/Successful requests +12\n/);
    expect(io.text).toMatch(/Output tokens +60\n/);
    expect(io.text).toMatch(/Good requests\/s/);
    expect(io.text).toMatch(/ms +mean +std +median +p90 +p99\nTTFT/);
    const file = JSON.parse(readFileSync(json, 'utf8')) as Record<string, unknown>;
    expect(file).toMatchObject({ kind: 'serve', model: 'fake-model', isPartial: false, errors: [] });
    expect(file).toMatchObject({ summary: { completed: 12, outputTokens: 60, promptTokens: 288, peakConcurrency: 3 } });
    expect(file.parameters).toEqual(options);
    expect(JSON.stringify(file)).not.toContain('secret');
  });

  it('repeats itself with the same seed', async () => {
    await using server = await startFakeServer(echoScript);
    const options = optionsOf({
      url: server.url,
      numPrompts: 5,
      numWarmups: 0,
      randomRangeRatio: 0.5,
      randomOutputLen: 4,
    });
    await benchServe(options, terminal());
    await benchServe(options, terminal());
    await benchServe({ ...options, seed: 1 }, terminal());
    const bodies = server.requests.map(({ body }) => JSON.stringify(body));
    expect(bodies.slice(5, 10)).toEqual(bodies.slice(0, 5));
    expect(bodies.slice(10)).not.toEqual(bodies.slice(0, 5));
  });

  it('replays a trace with scaled lengths', async () => {
    await using server = await startFakeServer(echoScript);
    const io = terminal();
    const options = optionsOf({
      url: server.url,
      trace: traceFile,
      numPrompts: 30,
      scale: 1000,
      maxInputLen: 64,
      maxOutputLen: 8,
      numWarmups: 0,
    });
    expect(await benchServe(options, io)).toBe(0);
    expect(server.requests).toHaveLength(30);
    const lengths = server.requests.map(({ body }) => (body.prompt as number[]).length);
    expect(Math.max(...lengths)).toBe(64);
    expect(Math.max(...server.requests.map(({ body }) => Number(body.max_tokens)))).toBe(8);
    expect(io.text).toMatch(/Trace lengths scaled: prompts x 0\.\d+, outputs x 0\.\d+/);
  });

  it('chats with text', async () => {
    await using server = await startFakeServer(echoScript);
    const promptsFile = join(folder, 'prompts.txt');
    writeFileSync(promptsFile, 'One?\nTwo?\n');
    const options = optionsOf({
      url: server.url,
      endpoint: 'chat',
      promptsFile,
      numPrompts: 3,
      numWarmups: 0,
      randomOutputLen: 2,
    });
    expect(await benchServe(options, terminal())).toBe(0);
    expect(server.requests.map(({ path }) => path)).toEqual(Array(3).fill('/v1/chat/completions'));
    expect(server.requests[2]?.body).toMatchObject({
      messages: [{ role: 'user', content: 'One?' }],
      max_completion_tokens: 2,
    });
  });

  it('prints the partial result at an interrupt', async () => {
    const controller = new AbortController();
    let numRequests = 0;
    await using server = await startFakeServer((request, response) => {
      if (++numRequests <= 3) return echoScript(request, response);
      response.write(sse.text('never ends'));
      controller.abort();
    });
    const io = terminal(controller.signal);
    const options = optionsOf({
      url: server.url,
      numPrompts: 50,
      maxConcurrency: 1,
      numWarmups: 0,
      randomOutputLen: 2,
    });
    expect(await benchServe(options, io)).toBe(130);
    expect(io.text).toMatch(
      /^Interrupted: partial result\.\nSuccessful requests +3\nFailed requests +0\nAborted requests +1\n/,
    );
  });

  it('counts failures, names them, and ends with 1 when nothing succeeded', async () => {
    await using server = await startFakeServer((_, response) => void response.writeHead(500).end('broken'));
    const io = terminal();
    const options = optionsOf({ url: server.url, numPrompts: 4, numWarmups: 0 });
    expect(await benchServe(options, io)).toBe(1);
    expect(io.text).toMatch(/Failed requests +4/);
    expect(io.text).toMatch(/4 x HTTP 500: broken/);
    await expect(benchServe({ ...options, numWarmups: 1 }, terminal())).rejects.toThrow(
      /warm-up request failed: HTTP 500/,
    );
  });

  it('refuses options that make no sense, and a server that is not there', async () => {
    const refused = (values: object) => expect(benchServe(optionsOf(values), terminal())).rejects;
    await refused({ url: 'nonsense' }).toThrow(/--url/);
    await refused({ endpoint: 'chat', promptForm: 'ids' }).toThrow(/text/);
    await refused({ trace: traceFile, requestRate: 1 }).toThrow(/--scale/);
    await refused({ trace: 'a', promptsFile: 'b' }).toThrow(/exclude/);
    await refused({ burstiness: 2 }).toThrow(/--request-rate/);
    await refused({ maxInputLen: 5 }).toThrow(/--trace/);
    await refused({ goodput: ['itl:5'] }).toThrow(/--goodput/);
    await refused({ trace: join(folder, 'missing') }).toThrow(/cannot read/);
    await refused({ extraBody: '[1]' }).toThrow(/--extra-body/);
    await refused({ url: 'http://127.0.0.1:1' }).toThrow(/no server answers/);
  });
});

describe('parseGoodput', () => {
  it('takes pairs apart or together', () => {
    expect(parseGoodput(['ttft:200', 'tpot:50.5'])).toEqual({ ttft: 200, tpot: 50.5 });
    expect(parseGoodput(['ttft:200 e2el:5000'])).toEqual({ ttft: 200, e2el: 5000 });
    for (const bad of ['ttft', 'ttft:', 'ttft:-1', 'ttft:x', 'p99:3'])
      expect(() => parseGoodput([bad])).toThrow(/--goodput/);
  });
});
