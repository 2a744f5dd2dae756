// Owns how a request is put to an OpenAI-compatible server: address, headers, model name, body.
import { XllmError } from '../../common/errors.ts';
import { callJson } from './http-json.ts';
import type { BenchRequest } from './prompts.ts';

export type Endpoint = 'completions' | 'chat';

/** `base` with or without a trailing `/` or `/v1`. */
export function apiUrl(base: string, path: string): URL {
  return new URL(base.replace(/\/+$/, '').replace(/\/v1$/, '') + path);
}

export function endpointUrl(base: string, endpoint: Endpoint): URL {
  return apiUrl(base, endpoint === 'chat' ? '/v1/chat/completions' : '/v1/completions');
}

/** A key from the environment, where there is one. */
export function authorisation(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const key = env.XLLM_API_KEY ?? env.OPENAI_API_KEY;
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** The first model that the server lists. Throws XllmError `usage` when it does not answer. */
export async function firstModel(
  base: string,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<string> {
  const url = apiUrl(base, '/v1/models');
  const reply = await callJson(url, { headers, signal }).catch((error: unknown) => {
    throw new XllmError('usage', `no server answers at ${url.origin}: ${String(error)}`, { cause: error });
  });
  const body = reply.status === 200 ? (reply.json() as { data?: { id?: unknown }[] }) : {};
  const id = body.data?.[0]?.id;
  if (typeof id !== 'string')
    throw new XllmError('usage', `${url.href} names no model (HTTP ${reply.status}): give one with --model`);
  return id;
}

export interface BodyOptions {
  readonly endpoint: Endpoint;
  readonly model: string;
  readonly temperature: number;
  readonly isEosIgnored: boolean;
  readonly extra: Readonly<Record<string, unknown>>;
}

/** The JSON text of a streaming request. */
export function requestBody({ prompt, maxTokens }: BenchRequest, options: BodyOptions): string {
  const content =
    options.endpoint === 'chat'
      ? { messages: [{ role: 'user', content: prompt }], max_completion_tokens: maxTokens }
      : { prompt, max_tokens: maxTokens };
  return JSON.stringify({
    model: options.model,
    ...content,
    temperature: options.temperature,
    ...(options.isEosIgnored && { ignore_eos: true }),
    stream: true,
    stream_options: { include_usage: true },
    ...options.extra,
  });
}
