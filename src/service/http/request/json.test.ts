import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { XllmError } from '../../../common/errors.ts';
import { limits } from '../limits.ts';
import { parseJson } from './json.ts';

const parse = (text: string) => parseJson(Buffer.from(text));
const codeOf = (text: string) => {
  try {
    parse(text);
  } catch (error) {
    return error instanceof XllmError ? error.code : 'another error';
  }
  return null;
};

describe('parseJson', () => {
  test('gives what JSON.parse gives', () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 8 }), (text) => {
        fc.pre(!text.includes('__proto__'));
        expect(parse(text)).toEqual(JSON.parse(text));
      }),
      { seed: 1 },
    );
  });

  test('refuses depth beyond the limit, and only that', () => {
    const nest = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
    expect(codeOf(nest(limits.jsonDepth))).toBeNull();
    expect(codeOf(nest(limits.jsonDepth + 1))).toBe('invalid_request');
    expect(codeOf('{"a":'.repeat(limits.jsonDepth + 1))).toBe('invalid_request');
    // Brackets in strings are no depth, whatever quotes and backslashes stand before them.
    for (const text of ['[[[', '"[[[', '\\"[[[', '\\', '\\\\"]]'])
      expect(parse(JSON.stringify(text.repeat(100)))).toBe(text.repeat(100));
    expect(codeOf(JSON.stringify('\\').repeat(2))).toBe('invalid_request');
  });

  test('a bomb of brackets is refused before it is parsed', () => {
    const start = process.cpuUsage();
    expect(codeOf('['.repeat(limits.bodyBytes))).toBe('invalid_request');
    // Parsing it takes seconds of CPU; looking at 65 bytes takes none.
    expect(process.cpuUsage(start).user).toBeLessThan(1_000_000);
  });

  test('never lets a field reach the prototype, however it is spelled', () => {
    for (const key of ['__proto__', String.raw`\u005f_proto__`, String.raw`__pr\u006fto__`])
      expect(codeOf(`{"a":{"${key}":{"x":1}}}`)).toBe('invalid_request');
    expect(parse('{"a":"__proto__"}')).toEqual({ a: '__proto__' });
  });

  test('says what is wrong', () => {
    expect(() => parse('')).toThrow(/empty/);
    expect(() => parse('{"a":}')).toThrow(/not valid JSON/);
  });
});
