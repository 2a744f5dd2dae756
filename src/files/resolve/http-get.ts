// Owns GET requests to model sources: proxies, the system's certificates, redirects, and no silence for long.
import { Agent as HttpAgent, get as httpGet, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, get as httpsGet } from 'node:https';
import { getCACertificates } from 'node:tls';
import { XllmError } from '../../common/errors.ts';
import type { Environment } from './settings.ts';

const connectTimeoutMs = 5_000;
/** Longest silence on an open connection. */
const idleTimeoutMs = 30_000;
const maxRedirects = 10;

export interface GetOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly environment: Environment;
  readonly signal: AbortSignal;
}

/**
 * Follows redirects; the authorization header stays with the first origin. Resolves with any final status. Rejects with
 * XllmError model_unavailable when the server cannot be reached within 5 s or falls silent for 30 s.
 */
export async function httpRequest(url: string, options: GetOptions): Promise<IncomingMessage> {
  let target = new URL(url);
  let headers = { 'user-agent': 'xllm', ...options.headers };
  for (let hop = 0; hop <= maxRedirects; hop++) {
    const response = await requestOnce(target, headers, options);
    const { location } = response.headers;
    if (location === undefined || ![301, 302, 303, 307, 308].includes(response.statusCode ?? 0)) return response;
    response.resume();
    const next = new URL(location, target);
    if (next.origin !== target.origin) {
      const { authorization: _, ...rest } = headers as Record<string, string>;
      headers = rest as typeof headers;
    }
    target = next;
  }
  throw new XllmError('model_unavailable', `${url}: more than ${maxRedirects} redirects`);
}

function requestOnce(
  url: URL,
  headers: Readonly<Record<string, string>>,
  options: GetOptions,
): Promise<IncomingMessage> {
  const isHttps = url.protocol === 'https:';
  if (!isHttps && url.protocol !== 'http:') {
    throw new XllmError('model_unavailable', `${url.href}: only http and https are fetched`);
  }
  const proxyEnv = { ...options.environment };
  const agent = isHttps ? new HttpsAgent({ proxyEnv, ca: trustedCertificates() }) : new HttpAgent({ proxyEnv });
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const request = (isHttps ? httpsGet : httpGet)(url, { headers, agent, signal: options.signal }, resolve);
  // Covers name lookup, proxy, TCP and TLS, none of which has a limit of its own.
  const connectTimer = setTimeout(() => {
    request.destroy(new Error(`no connection after ${connectTimeoutMs / 1000} s`));
  }, connectTimeoutMs);
  request.on('socket', (socket) => {
    if (socket.connecting) socket.once(isHttps ? 'secureConnect' : 'connect', () => clearTimeout(connectTimer));
    else clearTimeout(connectTimer);
  });
  request.setTimeout(idleTimeoutMs, () => request.destroy(new Error(`silent for ${idleTimeoutMs / 1000} s`)));
  request.on('error', (error) => {
    reject(options.signal.aborted ? error : unreachable(url, error));
  });
  return promise.finally(() => clearTimeout(connectTimer));
}

function unreachable(url: URL, error: Error): XllmError {
  const reason = error.message || (error as NodeJS.ErrnoException).code || 'unknown reason';
  return new XllmError('model_unavailable', `${url.origin} cannot be reached: ${reason}`, { cause: error });
}

let certificates: string[] | undefined;

/** Node's own, those of NODE_EXTRA_CA_CERTS and the system's, which companies put theirs into. */
function trustedCertificates(): string[] {
  certificates ??= [...new Set([...getCACertificates('default'), ...getCACertificates('system')])];
  return certificates;
}

/** The body as text, at most `maxBytes` long. */
export async function readText(response: IncomingMessage, maxBytes: number): Promise<string> {
  const pieces: Buffer[] = [];
  let numBytes = 0;
  for await (const piece of response as AsyncIterable<Buffer>) {
    numBytes += piece.length;
    if (numBytes > maxBytes) throw new Error(`the reply is longer than ${maxBytes} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
}
