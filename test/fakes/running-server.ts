// Owns an HTTP server on a free port with fakes behind it, for tests.
import { createLog, type Log } from '../../src/common/log.ts';
import type { GenerationDefaults, HttpConfig } from '../../src/service/http/config.ts';
import { createHttpServer, type HttpServer } from '../../src/service/http/server.ts';
import { FakeEngine, type FakeEngineOptions } from './fake-engine.ts';
import { FakeText, type FakeTextOptions } from './fake-text.ts';

export interface RunningServer extends AsyncDisposable {
  readonly url: string;
  readonly engine: FakeEngine;
  readonly text: FakeText;
  readonly server: HttpServer;
  /** Every line logged, as JSON values. */
  readonly lines: Readonly<Record<string, unknown>>[];
}

export async function startServer(
  options: {
    readonly engine?: FakeEngineOptions;
    readonly text?: FakeTextOptions;
    readonly config?: Partial<HttpConfig>;
    readonly defaults?: GenerationDefaults;
  } = {},
): Promise<RunningServer> {
  const engine = new FakeEngine(options.engine);
  const text = new FakeText(options.text);
  const lines: Readonly<Record<string, unknown>>[] = [];
  const log: Log = createLog({
    format: 'json',
    level: 'debug',
    write: (line) => lines.push(JSON.parse(line) as Record<string, unknown>),
  });
  let nextSeed = 1n;
  const server = createHttpServer({
    engine,
    assetsOf: () => ({ text, defaults: options.defaults ?? {} }),
    log,
    config: { port: 0, ...options.config },
    randomSeed: () => nextSeed++,
  });
  const url = await server.listen();
  return {
    url,
    engine,
    text,
    server,
    lines,
    async [Symbol.asyncDispose]() {
      await server.close();
      engine.close();
    },
  };
}

/** POST with a JSON body; the reply as status, headers and parsed body. */
export async function post(
  url: string,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<{ readonly status: number; readonly headers: Headers; readonly body: Json }> {
  const reply = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  return { status: reply.status, headers: reply.headers, body: (await reply.json()) as Json };
}

/** A JSON value that tests may reach into. */
export interface Json {
  readonly [key: string]: Json;
  readonly [index: number]: Json;
}

/** A JSON string as a string; "" for anything else. */
export function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** The data of each event of a finished stream; the last is "[DONE]" where it ended well. */
export async function readEvents(reply: Response): Promise<(Json | string)[]> {
  const text = await reply.text();
  return text
    .split('\n\n')
    .filter((event) => event.startsWith('data: '))
    .map((event) => event.slice('data: '.length))
    .map((data) => (data === '[DONE]' ? data : (JSON.parse(data) as Json)));
}
