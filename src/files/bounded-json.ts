// Owns parsing JSON from files that nobody vouches for: limits on size, depth and count, and no key twice.
import { readSync } from 'node:fs';
import { invalidFile } from './open-file.ts';
import type { Json, JsonObject, OpenFile } from './weights-file.ts';

export interface JsonLimits {
  readonly maxBytes: number;
  readonly maxDepth: number;
  /** Of values and keys together; bounds what the parsed form takes in memory. */
  readonly maxItems: number;
}

/** config.json is a few kB; the largest index (a sharded mixture of experts) about 10 MB with 100,000 names. */
const fileLimits: JsonLimits = { maxBytes: 64 << 20, maxDepth: 32, maxItems: 1 << 22 };

/** Reads a whole JSON file whose top level is an object. Throws XllmError model_file_invalid. */
export function readJsonObject(file: OpenFile): JsonObject {
  if (file.numBytes > fileLimits.maxBytes) {
    throw invalidFile(file.path, `has ${file.numBytes} bytes, at most ${fileLimits.maxBytes} are read`);
  }
  return parseJsonObject(file, 0, file.numBytes, fileLimits);
}

/** Reads `numBytes` (below `limits.maxBytes`) at `offset` of `file` as one JSON object. */
export function parseJsonObject(file: OpenFile, offset: number, numBytes: number, limits: JsonLimits): JsonObject {
  const bytes = Buffer.allocUnsafeSlow(numBytes);
  let filled = 0;
  while (filled < numBytes) {
    const numRead = readSync(file.fd, bytes, filled, numBytes - filled, offset + filled);
    if (numRead === 0) throw invalidFile(file.path, 'ends inside its JSON', offset + filled);
    filled += numRead;
  }
  checkStructure(file, offset, bytes, limits);
  let value: Json;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as Json;
  } catch (error) {
    throw invalidFile(file.path, `is not valid JSON: ${(error as Error).message}`, offset, error);
  }
  if (!isJsonObject(value)) throw invalidFile(file.path, 'holds JSON that is not an object', offset);
  return value;
}

export function isJsonObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const quote = 0x22;
const backslash = 0x5c;
const colon = 0x3a;

/** One pass over the bytes before anything is built from them; JSON.parse then judges the grammar. */
function checkStructure(file: OpenFile, offset: number, bytes: Buffer, limits: JsonLimits): void {
  // Keys of each open object; arrays stay empty.
  const open: Set<string>[] = [];
  let numItems = 0;
  for (let at = 0; at < bytes.length; at++) {
    switch (bytes[at]) {
      case 0x7b: // {
      case 0x5b: // [
        open.push(new Set());
        if (open.length > limits.maxDepth) {
          throw invalidFile(file.path, `nests deeper than ${limits.maxDepth}`, offset + at);
        }
        numItems++;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        open.pop();
        break;
      case 0x2c: // ,
        numItems++;
        break;
      case quote: {
        const end = stringEnd(bytes, at);
        if (isKey(bytes, end)) {
          const key = keyText(bytes.toString('utf8', at, end));
          const keys = open.at(-1);
          if (keys?.has(key)) throw invalidFile(file.path, `has the name ${key} twice`, offset + at);
          keys?.add(key);
          numItems++;
        }
        at = end - 1;
        break;
      }
    }
    if (numItems > limits.maxItems) {
      throw invalidFile(file.path, `holds more than ${limits.maxItems} values`, offset + at);
    }
  }
}

/** Index after the closing quote, or the end of the bytes. */
function stringEnd(bytes: Buffer, start: number): number {
  let at = start + 1;
  while (at < bytes.length && bytes[at] !== quote) at += bytes[at] === backslash ? 2 : 1;
  return Math.min(at + 1, bytes.length);
}

function isKey(bytes: Buffer, end: number): boolean {
  let at = end;
  while (bytes[at] === 0x20 || bytes[at] === 0x09 || bytes[at] === 0x0a || bytes[at] === 0x0d) at++;
  return bytes[at] === colon;
}

/** Two spellings of one key must compare equal. */
function keyText(quoted: string): string {
  if (!quoted.includes('\\')) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    // Not valid JSON: the parser, which runs next, says so with its place.
    return quoted;
  }
}
