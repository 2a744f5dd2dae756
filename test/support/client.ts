// Owns a small completions client for tests: whole answers, and streams that can be broken off.

export interface Completion {
  readonly status: number;
  readonly text: string;
  readonly finishReason: string | null;
  readonly tokenIds: readonly number[];
  readonly cachedTokens: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly error: { readonly code: string; readonly message: string } | null;
}

interface Reply {
  readonly choices?: readonly {
    readonly text?: string;
    readonly finish_reason?: string | null;
    readonly token_ids?: readonly number[] | null;
  }[];
  readonly usage?: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
  readonly error?: { readonly code: string; readonly message: string };
}

export async function complete(
  url: string,
  body: Readonly<Record<string, unknown>>,
  signal?: AbortSignal,
): Promise<Completion> {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ return_token_ids: true, ...body }),
    ...(signal ? { signal } : {}),
  });
  const reply = (await response.json()) as Reply;
  const choice = reply.choices?.[0];
  return {
    status: response.status,
    text: choice?.text ?? '',
    finishReason: choice?.finish_reason ?? null,
    tokenIds: choice?.token_ids ?? [],
    cachedTokens: reply.usage?.prompt_tokens_details?.cached_tokens ?? 0,
    promptTokens: reply.usage?.prompt_tokens ?? 0,
    completionTokens: reply.usage?.completion_tokens ?? 0,
    error: reply.error ?? null,
  };
}

export interface StreamedCompletion {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly finishReason: string | null;
  /** Milliseconds from sending to the first token. */
  readonly ttftMs: number;
  /** An error event after the headers. */
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly sawDone: boolean;
}

/** Streams a completion. `onToken` may return false to break the connection off. */
export async function stream(
  url: string,
  body: Readonly<Record<string, unknown>>,
  onToken: (numTokens: number) => boolean = () => true,
): Promise<StreamedCompletion> {
  const start = performance.now();
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ return_token_ids: true, ...body, stream: true }),
  });
  if (!response.ok || !response.body) {
    const { error } = (await response.json()) as Reply;
    return { text: '', tokenIds: [], finishReason: null, ttftMs: Number.NaN, error: error ?? null, sawDone: false };
  }
  let ttftMs = Number.NaN;
  let text = '';
  let finishReason: string | null = null;
  let error: StreamedCompletion['error'] = null;
  let sawDone = false;
  const tokenIds: number[] = [];
  let pending = '';
  const decoder = new TextDecoder();
  for await (const chunk of response.body) {
    pending += decoder.decode(chunk as Uint8Array, { stream: true });
    for (;;) {
      const end = pending.indexOf('\n\n');
      if (end < 0) break;
      const event = pending.slice(0, end);
      pending = pending.slice(end + 2);
      const data = event
        .split('\n')
        .find((line) => line.startsWith('data: '))
        ?.slice(6);
      if (data === undefined) continue;
      if (data === '[DONE]') {
        sawDone = true;
        continue;
      }
      const reply = JSON.parse(data) as Reply;
      if (reply.error) error = reply.error;
      const choice = reply.choices?.[0];
      if (!choice) continue;
      if (Number.isNaN(ttftMs)) ttftMs = performance.now() - start;
      text += choice.text ?? '';
      tokenIds.push(...(choice.token_ids ?? []));
      finishReason = choice.finish_reason ?? finishReason;
      // Leaving the loop cancels the body, which closes the connection.
      if (!onToken(tokenIds.length)) return { text, tokenIds, finishReason, ttftMs, error, sawDone };
    }
  }
  return { text, tokenIds, finishReason, ttftMs, error, sawDone };
}

/** A metric's value from /metrics, summed over its labels. */
export async function metric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  let sum = Number.NaN;
  for (const line of text.split('\n')) {
    const match = /^([a-zA-Z_:]+)(?:\{[^}]*\})? (\S+)$/.exec(line);
    if (match?.[1] === name) sum = (Number.isNaN(sum) ? 0 : sum) + Number(match[2]);
  }
  return sum;
}
