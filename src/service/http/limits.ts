// Owns the bounds on what one request may ask for, and the timings of a stream.

export const limits = {
  bodyBytes: 32 * 2 ** 20,
  /** JSON.parse of ten million nested arrays takes 6 s and 700 MB, so deep bodies are refused before it runs. */
  jsonDepth: 64,
  messages: 4096,
  contentParts: 1024,
  /** Prompts times n. */
  choices: 1024,
  n: 128,
  stops: 16,
  stopChars: 1024,
  stopTokenIds: 256,
  logitBias: 1024,
  logprobs: 20,
  cacheSaltChars: 1024,
  requestIdChars: 128,
} as const;

/** How a stream treats silence and slow readers. */
export interface StreamLimits {
  /** A `: ping` comment after this long without an event keeps proxies from closing the connection. */
  readonly pingMs: number;
  /** Unsent bytes from which on the engine is paused. */
  readonly slowBytes: number;
  /** A reader that stays behind this long is cancelled. */
  readonly slowMs: number;
}

export const defaultStreamLimits: StreamLimits = { pingMs: 15_000, slowBytes: 256 * 1024, slowMs: 30_000 };
