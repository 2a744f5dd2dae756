// Owns the error catalogue: every failure a user can meet, with its stable code, HTTP status and advice.

/**
 * One row per code. `status` is the HTTP status; `type` is OpenAI's error type.
 * `docs/errors.md` is generated from this table and a test keeps the two equal.
 */
export const errorCatalogue = {
  invalid_request: {
    status: 400,
    type: 'invalid_request_error',
    about: 'The request body or a field of it is not valid; the message names the field.',
  },
  unsupported_parameter: {
    status: 400,
    type: 'invalid_request_error',
    about: 'A known field asks for something this server cannot do yet; leave it out.',
  },
  context_length_exceeded: {
    status: 400,
    type: 'invalid_request_error',
    about: 'Prompt plus requested tokens can never fit; shorten the prompt or lower max_tokens.',
  },
  tokenizer_missing: {
    status: 400,
    type: 'invalid_request_error',
    about: 'The model has no tokenizer files; send the prompt as token ids.',
  },
  template_failed: {
    status: 400,
    type: 'invalid_request_error',
    about: 'The chat template refused the messages or ran too long; the message quotes it.',
  },
  invalid_api_key: {
    status: 401,
    type: 'authentication_error',
    about: 'Send a valid key as `Authorization: Bearer KEY`.',
  },
  forbidden_host: {
    status: 403,
    type: 'invalid_request_error',
    about: 'A foreign Host header on a keyless loopback server; use 127.0.0.1, or set an API key.',
  },
  model_not_found: {
    status: 404,
    type: 'invalid_request_error',
    about: 'No such model is served; the message names those that are.',
  },
  not_found: {
    status: 404,
    type: 'invalid_request_error',
    about: 'No such route, request or instance; see /openapi.json.',
  },
  last_instance: {
    status: 409,
    type: 'invalid_request_error',
    about: 'Nothing else could serve the model of the instance to be drained; start another one, or force it.',
  },
  body_too_large: {
    status: 413,
    type: 'invalid_request_error',
    about: 'The body exceeds the limit (32 MiB unless configured).',
  },
  internal_error: { status: 500, type: 'server_error', about: 'A bug: please report it with the request id.' },
  overloaded: {
    status: 503,
    type: 'server_error',
    about: 'The queue is full or the wait would be too long; retry after the stated seconds.',
  },
  engine_unavailable: {
    status: 503,
    type: 'server_error',
    about: 'The engine is starting, restarting or draining; retry after the stated seconds.',
  },
  engine_lost: {
    status: 503,
    type: 'server_error',
    about: 'The engine died while the request ran; it is safe to retry.',
  },
  request_cancelled: { status: 499, type: 'invalid_request_error', about: 'The client went away or cancelled.' },
  deadline_exceeded: { status: 504, type: 'server_error', about: 'The request passed its deadline.' },
  // Not met over HTTP: command line and start-up.
  usage: {
    status: 2,
    type: 'usage',
    about: 'A wrong flag, value or configuration key; the message names the nearest right one.',
  },
  model_file_invalid: {
    status: 1,
    type: 'startup',
    about: 'A weights or config file is truncated, corrupt or of an unknown kind.',
  },
  model_unsupported: { status: 1, type: 'startup', about: 'The architecture or weight format is not supported.' },
  model_unavailable: { status: 1, type: 'startup', about: 'The model could not be found locally or downloaded.' },
  native_unavailable: {
    status: 1,
    type: 'startup',
    about: 'A native library is missing or does not match; the message names the package.',
  },
  out_of_memory: {
    status: 1,
    type: 'startup',
    about: 'The model or its KV cache does not fit in memory; the message says what would.',
  },
  address_in_use: { status: 1, type: 'startup', about: 'The port or socket is taken; choose another with --port.' },
} as const;

export type ErrorCode = keyof typeof errorCatalogue;

/** A failure that a user can act on. `message` says what happened and what to do. */
export class XllmError extends Error {
  readonly code: ErrorCode;
  /** Name of the offending request field, where there is one (OpenAI's `param`). */
  readonly param: string | undefined;
  /** Seconds for `Retry-After`, where retrying helps. */
  readonly retryAfterS: number | undefined;

  constructor(code: ErrorCode, message: string, more: { param?: string; retryAfterS?: number; cause?: unknown } = {}) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = 'XllmError';
    this.code = code;
    this.param = more.param;
    this.retryAfterS = more.retryAfterS;
  }

  get status(): number {
    return errorCatalogue[this.code].status;
  }
}

/** Throws when an internal invariant is broken: always a bug, never the user's fault. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`invariant broken: ${message}`);
}

/** Makes a switch exhaustive at compile time. */
export function assertNever(value: never): never {
  throw new Error(`unexpected value: ${JSON.stringify(value)}`);
}

/** A refusal that callers expect: a value, not an exception. */
export interface Refusal {
  readonly refused: ErrorCode;
  readonly message: string;
  readonly retryAfterS?: number;
}

/** Tells a refusal from what was asked for. */
export function isRefusal(value: object): value is Refusal {
  return 'refused' in value;
}
