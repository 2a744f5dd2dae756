// Owns how a failure looks to a client: OpenAI's shape, with a stable code.
import { type ErrorCode, errorCatalogue, XllmError } from '../../common/errors.ts';

export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: ErrorCode;
  };
}

export function errorBody(error: XllmError): ErrorBody {
  const { message, param, code } = error;
  return { error: { message, type: errorCatalogue[code].type, param: param ?? null, code } };
}

/** Headers that go with an error: every 503 says when to come back. */
export function errorHeaders({ status, retryAfterS }: XllmError): Readonly<Record<string, string>> {
  const seconds = retryAfterS ?? (status === 503 ? 1 : null);
  return seconds === null ? {} : { 'retry-after': String(Math.max(1, Math.ceil(seconds))) };
}

/** What the HTTP framework or Node found wrong, by its code. */
const frameworkFaults: Readonly<Record<string, readonly [ErrorCode, string]>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: ['body_too_large', 'The body is larger than this server accepts.'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ['invalid_request', 'Send the body as JSON with "Content-Type: application/json".'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['invalid_request', 'The body is not as long as Content-Length says.'],
  FST_ERR_CTP_EMPTY_JSON_BODY: ['invalid_request', 'The body is empty; send a JSON object.'],
  FST_ERR_BAD_URL: ['invalid_request', 'The path is not a valid URL.'],
  FST_ERR_ASYNC_CONSTRAINT: ['invalid_request', 'The request cannot be routed.'],
  ECONNRESET: ['request_cancelled', 'The client went away.'],
  FST_ERR_MAX_PARAM_LENGTH: ['not_found', 'The path is too long.'],
};

/** An engine of a later version may refuse with a code unknown here; codes of the command line have no HTTP status. */
function isForHttp(code: string): boolean {
  return Object.hasOwn(errorCatalogue, code) && errorCatalogue[code as ErrorCode].status >= 400;
}

/** The failure as a client may see it. What is not the client's fault says no more than the request id. */
export function toXllmError(error: unknown, requestId: string): XllmError {
  if (error instanceof XllmError && isForHttp(error.code)) return error;
  const code = typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : '';
  const fault = frameworkFaults[code];
  if (fault) return new XllmError(fault[0], fault[1], { cause: error });
  return new XllmError('internal_error', `Internal error; please report it with the request id ${requestId}.`, {
    cause: error,
  });
}
