// Owns small JSON calls to a server, each on its own connection.
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';

export interface JsonReply {
  readonly status: number;
  readonly text: string;
  /** The parsed body; throws SyntaxError when it is no JSON. */
  json(): unknown;
}

/** GET, or POST when `body` is given. Rejects when there is no HTTP answer. */
export function callJson(
  url: URL,
  more: { body?: unknown; headers?: Readonly<Record<string, string>>; signal?: AbortSignal } = {},
): Promise<JsonReply> {
  const { promise, resolve, reject } = Promise.withResolvers<JsonReply>();
  const open = url.protocol === 'https:' ? httpsRequest : httpRequest;
  const request = open(url, {
    method: more.body === undefined ? 'GET' : 'POST',
    agent: false,
    headers: { 'content-type': 'application/json', ...more.headers },
    ...(more.signal && { signal: more.signal }),
  });
  request.on('error', reject);
  request.once('response', (response) => {
    let text = '';
    response.setEncoding('utf8');
    response.on('error', reject);
    response.on('data', (part: string) => {
      text += part;
    });
    response.once('end', () =>
      resolve({ status: response.statusCode ?? 0, text, json: () => JSON.parse(text) as unknown }),
    );
  });
  request.end(more.body === undefined ? undefined : JSON.stringify(more.body));
  return promise;
}
