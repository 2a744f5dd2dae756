// Owns a stand-in for an OpenAI-compatible server: answers are scripts, so that clients meet known timings and faults.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

interface FakeRequest {
  readonly path: string;
  readonly body: Record<string, unknown>;
  readonly socketId: number;
  readonly headers: IncomingMessage['headers'];
}

export type Script = (request: FakeRequest, response: ServerResponse) => Promise<void> | void;

export interface FakeServer extends AsyncDisposable {
  readonly url: string;
  readonly requests: FakeRequest[];
}

/** Serves `/v1/models` itself and everything else by `script`. */
export async function startFakeServer(script: Script): Promise<FakeServer> {
  const requests: FakeRequest[] = [];
  const socketIds = new WeakMap<object, number>();
  let numSockets = 0;
  async function answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = '';
    for await (const part of incoming.setEncoding('utf8')) text += part as string;
    if (incoming.url === '/v1/models') {
      response.end(JSON.stringify({ object: 'list', data: [{ id: 'fake-model' }] }));
      return;
    }
    const socketId = socketIds.get(incoming.socket) ?? ++numSockets;
    socketIds.set(incoming.socket, socketId);
    const body = (text === '' ? {} : JSON.parse(text)) as Record<string, unknown>;
    const request = { path: incoming.url ?? '', body, socketId, headers: incoming.headers };
    requests.push(request);
    await script(request, response);
  }
  const server = createServer((incoming, response) => {
    // A client that goes away while it still sends is part of some scripts.
    answer(incoming, response).catch((error: unknown) => response.destroy(error as Error));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export const sse = {
  /** A text completion's chunk. */
  text: (text: string): string => `data: ${JSON.stringify({ choices: [{ index: 0, text, finish_reason: null }] })}\n\n`,
  /** A chat completion's chunk. */
  delta: (delta: object, finishReason: string | null = null): string =>
    `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: finishReason }] })}\n\n`,
  usage: (promptTokens: number, outputTokens: number, cachedTokens = 0): string =>
    `data: ${JSON.stringify({
      choices: [],
      usage: {
        prompt_tokens: promptTokens,
        completion_tokens: outputTokens,
        prompt_tokens_details: { cached_tokens: cachedTokens },
      },
    })}\n\n`,
  done: 'data: [DONE]\n\n',
};

/** Answers at once with as many one-token chunks as were asked for, and usage. */
export const echoScript: Script = ({ body }, response) => {
  const numTokens = Number(body.max_tokens ?? body.max_completion_tokens);
  const prompt = body.prompt;
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (let i = 0; i < numTokens; i++) response.write(body.messages ? sse.delta({ content: 'x' }) : sse.text('x'));
  response.write(sse.usage(Array.isArray(prompt) ? prompt.length : 5, numTokens));
  response.end(sse.done);
};
