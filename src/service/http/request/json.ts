// Owns the way from body bytes to a JSON value: bounded in depth, and never able to reach a prototype.
import { XllmError } from '../../../common/errors.ts';
import { limits } from '../limits.ts';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Throws XllmError `invalid_request` for what is not JSON, nests too deeply, or names `__proto__`. */
export function parseJson(bytes: Buffer): unknown {
  if (bytes.length === 0) throw new XllmError('invalid_request', 'The body is empty; send a JSON object.');
  if (isTooDeep(bytes, limits.jsonDepth))
    throw new XllmError('invalid_request', `The body nests deeper than ${limits.jsonDepth} levels.`);
  const text = bytes.toString('utf8');
  try {
    // Only a body that spells the name at all pays for the slower parse.
    return text.includes('__proto__') || text.includes('\\u00') ? JSON.parse(text, refuseProto) : JSON.parse(text);
  } catch (error) {
    if (error instanceof XllmError) throw error;
    const detail = error instanceof Error ? error.message.replace(/\n/g, ' ').slice(0, 200) : '';
    throw new XllmError('invalid_request', `The body is not valid JSON: ${detail}`);
  }
}

function refuseProto(key: string, value: unknown): unknown {
  if (key === '__proto__') throw new XllmError('invalid_request', 'The body has a field named __proto__.');
  return value;
}

/** Counts brackets outside strings: cheaper than parsing, and the parser never sees the bomb. */
function isTooDeep(bytes: Buffer, maxDepth: number): boolean {
  let depth = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!;
    if (byte === QUOTE) {
      i = endOfString(bytes, i);
    } else if (byte === 0x5b || byte === 0x7b) {
      if (++depth > maxDepth) return true;
    } else if (byte === 0x5d || byte === 0x7d) {
      depth--;
    }
  }
  return false;
}

/** Index of the quote that closes the string opened at `start`, or the last index where none does. */
function endOfString(bytes: Buffer, start: number): number {
  for (let end = bytes.indexOf(QUOTE, start + 1); end !== -1; end = bytes.indexOf(QUOTE, end + 1)) {
    let numBackslashes = 0;
    while (bytes[end - 1 - numBackslashes] === BACKSLASH) numBackslashes++;
    if (numBackslashes % 2 === 0) return end;
  }
  return bytes.length;
}
