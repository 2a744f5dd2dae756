// Owns the request id: taken from the client where it is harmless, minted otherwise.
import { randomUUID } from 'node:crypto';
import type { RequestId } from '../../../common/ids.ts';
import { limits } from '../limits.ts';

/** What may stand in a header, a log line and an RPC without quoting. */
const HARMLESS = /^[A-Za-z0-9._:-]+$/;

/** The id of a request whose `x-request-id` header is `header`. */
export function requestIdOf(header: string | readonly string[] | undefined): RequestId {
  if (typeof header === 'string' && header.length <= limits.requestIdChars && HARMLESS.test(header))
    return header as RequestId;
  return randomUUID() as string as RequestId;
}
