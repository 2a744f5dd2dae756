import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SseParser } from './sse.ts';

function parse(...parts: string[]): string[] {
  const events: string[] = [];
  const parser = new SseParser((data) => events.push(data));
  for (const part of parts) parser.push(part);
  return events;
}

describe('SseParser', () => {
  it('skips comments and other fields, joins data lines, takes any line end', () => {
    expect(parse(': ping\n\nevent: x\nid: 1\ndata: a\n\ndata:b\r\n\r\ndata: c\ndata:  d\n\n')).toEqual([
      'a',
      'b',
      'c\n d',
    ]);
    expect(parse('data: cut')).toEqual([]);
    expect(parse('data\n\n')).toEqual([]);
  });

  it('gives the same events however the text is cut', () => {
    const line = fc.constantFrom('data: {"a":1}', 'data: é🙂', ': ping', 'event: x', '', '', 'data:', 'data: [DONE]');
    fc.assert(
      fc.property(fc.array(line), fc.constantFrom('\n', '\r\n'), fc.array(fc.nat(100)), (lines, end, cuts) => {
        const text = lines.map((l) => l + end).join('');
        const at = [0, ...cuts.map((cut) => Math.min(cut, text.length)).sort((a, b) => a - b), text.length];
        expect(parse(...at.slice(1).map((to, i) => text.slice(at[i], to)))).toEqual(parse(text));
      }),
    );
  });
});
