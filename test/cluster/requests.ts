// Owns random requests for cluster tests, and their answers in a form that can be compared: by seed, always the same.

export interface Answer {
  readonly status: number;
  readonly id: string;
  readonly error: string | null;
  /** By choice. */
  readonly choices: readonly ChoiceAnswer[];
  readonly sawDone: boolean;
}

export interface ChoiceAnswer {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly finish: string | null;
  readonly logprobs: readonly string[];
}

export type Body = Readonly<Record<string, unknown>>;

/** A small seeded generator. */
export function random(seed: number): (below: number) => number {
  let state = (seed * 2654435761) >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Streaming or not, long and short, several choices, seeds, log-probabilities, penalties, stop rules, shared prefixes. */
export function randomRequest(seed: number): Body {
  const pick = random(seed);
  const numPrompt = pick(4) === 0 ? 200 + pick(1_200) : 1 + pick(80);
  const family = pick(4);
  const prompt = Array.from({ length: numPrompt }, (_, i) =>
    i < 64 ? 100 + family * 1_000 + i : 5_000 + pick(40_000),
  );
  const hasLogprobs = pick(3) === 0;
  return {
    prompt,
    max_tokens: 1 + pick(60),
    stream: pick(2) === 0,
    n: pick(4) === 0 ? 1 + pick(3) : 1,
    // Always a seed: without one every call draws its own.
    seed: pick(1_000_000),
    temperature: pick(3) === 0 ? 0 : 0.5 + pick(10) / 10,
    ...(pick(3) === 0 ? { top_p: 0.9, top_k: 40 } : {}),
    ...(pick(4) === 0 ? { repetition_penalty: 1.2 } : {}),
    ...(pick(4) === 0 ? { presence_penalty: 0.5, frequency_penalty: 0.2 } : {}),
    ...(pick(4) === 0 ? { min_tokens: 1 } : {}),
    ...(hasLogprobs ? { logprobs: pick(4) } : {}),
    ...(hasLogprobs && numPrompt < 200 && pick(2) === 0 ? { echo: true } : {}),
    ignore_eos: pick(2) === 0,
    priority: pick(3),
    offline: pick(5) === 0,
  };
}

interface Chunk {
  readonly choices?: readonly {
    readonly index: number;
    readonly text?: string;
    readonly finish_reason?: string | null;
    readonly token_ids?: readonly number[] | null;
    readonly logprobs?: {
      readonly tokens: readonly string[];
      readonly token_logprobs: readonly (number | null)[];
    } | null;
  }[];
  readonly error?: { readonly code: string; readonly message: string };
}

/** Sends a request; `onToken` hears of each event of a stream. */
export async function ask(
  url: string,
  body: Body,
  options: { id?: string; session?: string; onEvent?: () => void } = {},
): Promise<Answer> {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(options.id ? { 'x-request-id': options.id } : {}),
      ...(options.session ? { 'x-session-id': options.session } : {}),
    },
    body: JSON.stringify({ ...body, return_token_ids: true }),
  });
  const id = response.headers.get('x-request-id') ?? '';
  const chunks: Chunk[] = [];
  let sawDone = false;
  if (body['stream'] === true && response.ok && response.body) {
    const decoder = new TextDecoder();
    let pending = '';
    for await (const bytes of response.body) {
      pending += decoder.decode(bytes as Uint8Array, { stream: true });
      const events = pending.split('\n\n');
      pending = events.pop() ?? '';
      for (const event of events) {
        if (!event.startsWith('data: ')) continue;
        if (event === 'data: [DONE]') sawDone = true;
        else chunks.push(JSON.parse(event.slice(6)) as Chunk);
        options.onEvent?.();
      }
    }
  } else chunks.push((await response.json()) as Chunk);
  const error =
    chunks.flatMap(({ error: failure }) => (failure ? [`${failure.code}: ${failure.message}`] : []))[0] ?? null;
  const n = Math.max(1, Number(body['n'] ?? 1));
  const choices = Array.from({ length: n }, (_, index): ChoiceAnswer => {
    const parts = chunks.flatMap((chunk) => chunk.choices?.filter((choice) => choice.index === index) ?? []);
    return {
      text: parts.map(({ text }) => text ?? '').join(''),
      tokenIds: parts.flatMap(({ token_ids }) => token_ids ?? []),
      finish: parts.at(-1)?.finish_reason ?? null,
      logprobs: parts.flatMap(({ logprobs }) =>
        logprobs ? logprobs.tokens.map((token, i) => `${token} ${logprobs.token_logprobs[i]}`) : [],
      ),
    };
  });
  return { status: response.status, id, error, choices, sawDone };
}

/** What of an answer must not depend on where it was computed. */
export function contentOf({ status, error, choices, sawDone }: Answer): unknown {
  return { status, error, choices, sawDone };
}

/** Token ids of a prompt, by seed. */
export function promptOf(seed: number, length: number): number[] {
  const pick = random(seed + 77);
  return Array.from({ length }, () => 100 + pick(40_000));
}

/** A request that runs for as many tokens as asked for, streaming; else random. */
export function longRequest(seed: number, numPrompt: number, maxTokens: number): Body {
  const { prompt: _, max_tokens: __, echo: ___, ...rest } = randomRequest(seed);
  return {
    ...rest,
    stream: true,
    ignore_eos: true,
    offline: false,
    prompt: promptOf(seed, numPrompt),
    max_tokens: maxTokens,
  };
}

/** An answer that is listened to: how many events have come, and the longest wait for one since `failed` was called. */
export function askAndListen(url: string, body: Body, id: string) {
  let numSeen = 0;
  let lastMs = Number.NaN;
  let gapMs = 0;
  const answer = ask(url, body, {
    id,
    onEvent: () => {
      numSeen++;
      const nowMs = performance.now();
      // NaN before the failure: no gap.
      if (nowMs - lastMs > gapMs) gapMs = nowMs - lastMs;
      if (!Number.isNaN(lastMs)) lastMs = nowMs;
    },
  });
  return {
    answer,
    numSeen: () => numSeen,
    gapMs: () => Math.round(gapMs),
    failed: () => {
      lastMs = performance.now();
    },
  };
}

/** A client that asks, and hangs up after `afterMs`. */
export async function vanish(url: string, body: Body, afterMs: number): Promise<void> {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), afterMs);
  try {
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: controller.signal,
    });
    await response.text();
  } catch (error) {
    if (!controller.signal.aborted) throw error;
  }
}
