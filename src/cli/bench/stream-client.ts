// Owns one streamed request on the wire: sends it, stamps its chunks, and returns its record.
// It shares a small machine's cores with the server under test, so it does little per event: one clock reading per
// network read, one JSON.parse per event, no text kept.
import { Agent, type ClientRequest, type IncomingMessage, request as httpRequest } from 'node:http';
import { Agent as SecureAgent, request as httpsRequest } from 'node:https';
import type { BenchClock } from './clock.ts';
import type { RequestRecord } from './metrics.ts';
import { SseParser } from './sse.ts';

export interface StreamTarget {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  /** False opens a connection per request: some servers drop requests on reused ones. */
  readonly isKeepAlive: boolean;
  /** Longest time for one request before it counts as failed. */
  readonly timeoutMs: number;
}

interface Chunk {
  readonly choices?: readonly {
    readonly delta?: Readonly<Record<string, unknown>>;
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: {
    readonly prompt_tokens?: number;
    readonly completion_tokens?: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
  readonly error?: unknown;
}

/** Most characters of an error body that are read and shown. */
const MAX_ERROR_CHARS = 500;

/**
 * A chat stream's opening chunk `{role: "assistant", content: ""}` is no token: servers may send it on admission, long
 * before the first one.
 */
function isToken(choice: NonNullable<Chunk['choices']>[number]): boolean {
  const { delta } = choice;
  if (delta === undefined || delta.role === undefined || choice.finish_reason) return true;
  return Object.entries(delta).some(([key, value]) => key !== 'role' && value !== null && value !== '');
}

/** What a response has told so far. */
class StreamState {
  readonly chunkMs: number[] = [];
  usage: NonNullable<Chunk['usage']> | null = null;
  error = '';
  isDone = false;
  readonly #onFirstToken: (() => void) | undefined;

  constructor(onFirstToken: (() => void) | undefined) {
    this.#onFirstToken = onFirstToken;
  }

  /** One event's data, read at `nowMs`. */
  take(data: string, nowMs: number): void {
    if (data === '[DONE]') {
      this.isDone = true;
      return;
    }
    let chunk: Chunk;
    try {
      chunk = JSON.parse(data) as Chunk;
    } catch {
      this.error = `the server sent an event that is no JSON: ${data.slice(0, MAX_ERROR_CHARS)}`;
      return;
    }
    const choice = chunk.choices?.[0];
    if (choice !== undefined && isToken(choice)) {
      this.chunkMs.push(nowMs);
      if (this.chunkMs.length === 1) this.#onFirstToken?.();
    }
    if (chunk.usage) this.usage = chunk.usage;
    if (chunk.error !== undefined) this.error = JSON.stringify(chunk.error).slice(0, MAX_ERROR_CHARS);
  }
}

export class StreamClient {
  readonly #target: StreamTarget;
  readonly #clock: BenchClock;
  readonly #agent: Agent;

  constructor(target: StreamTarget, clock: BenchClock) {
    this.#target = target;
    this.#clock = clock;
    const options = { keepAlive: target.isKeepAlive, maxSockets: Infinity };
    this.#agent = target.url.protocol === 'https:' ? new SecureAgent(options) : new Agent(options);
  }

  /** Closes idle connections. */
  close(): void {
    this.#agent.destroy();
  }

  /**
   * Never rejects: what goes wrong becomes a record with outcome `failed`, an abort one with `aborted`.
   * `promptTokens` stands in where the server reports no usage. `onFirstToken` is called when the first chunk is in.
   */
  send(
    body: string,
    promptTokens: number,
    queueMs: number,
    signal: AbortSignal,
    onFirstToken?: () => void,
  ): Promise<RequestRecord> {
    const state = new StreamState(onFirstToken);
    const { promise, resolve } = Promise.withResolvers<RequestRecord>();
    const startMs = this.#clock.now();
    const finish = (outcome: RequestRecord['outcome'], error: string): void => {
      clearTimeout(timer);
      const { usage, chunkMs } = state;
      resolve({
        outcome,
        error,
        startMs,
        queueMs,
        chunkMs,
        promptTokens: usage?.prompt_tokens ?? promptTokens,
        cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0,
        outputTokens: usage?.completion_tokens ?? chunkMs.length,
        isUsageReported: usage?.completion_tokens !== undefined,
      });
    };
    const fail = (error: Error): void => (signal.aborted ? finish('aborted', '') : finish('failed', error.message));
    const request = this.#open(signal);
    const timer = setTimeout(
      () => request.destroy(new Error(`no complete answer within ${this.#target.timeoutMs / 1000} s`)),
      this.#target.timeoutMs,
    );
    request.on('error', fail);
    request.once('response', (response) => {
      // An abort or a time-out after the headers arrives here, with the request's own error.
      response.on('error', fail);
      if (response.statusCode === 200) this.#readStream(response, state, finish);
      else readError(response, (error) => finish('failed', error));
    });
    request.end(body);
    return promise;
  }

  #open(signal: AbortSignal): ClientRequest {
    const { url, headers } = this.#target;
    const open = url.protocol === 'https:' ? httpsRequest : httpRequest;
    return open(url, {
      method: 'POST',
      agent: this.#agent,
      headers: { 'content-type': 'application/json', ...headers },
      signal,
    });
  }

  #readStream(
    response: IncomingMessage,
    state: StreamState,
    finish: (outcome: RequestRecord['outcome'], error: string) => void,
  ): void {
    let nowMs = 0;
    const parser = new SseParser((data) => state.take(data, nowMs));
    response.setEncoding('utf8');
    response.on('data', (text: string) => {
      nowMs = this.#clock.now();
      parser.push(text);
    });
    response.once('end', () => {
      if (state.error !== '') finish('failed', state.error);
      else if (state.chunkMs.length === 0) finish('failed', 'the stream ended without a token');
      else if (!state.isDone) finish('failed', 'the stream ended before [DONE]');
      else finish('ok', '');
    });
  }
}

function readError(response: IncomingMessage, done: (error: string) => void): void {
  let text = '';
  response.setEncoding('utf8');
  response.on('data', (part: string) => {
    if (text.length < MAX_ERROR_CHARS) text += part;
  });
  response.once('end', () => done(`HTTP ${response.statusCode}: ${text.slice(0, MAX_ERROR_CHARS).trim()}`));
}
