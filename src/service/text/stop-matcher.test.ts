import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StopMatcher } from './stop-matcher.ts';

/** The definition, in plain loops: the first end at which a stop string is complete; of those, the longest. */
function naive(text: string, stops: readonly string[]): { stop: string; index: number } | null {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) return { stop: found, index: end - found.length };
  }
  return null;
}

const word = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '😀'), maxLength: 6 });
const chunks = fc.array(word, { maxLength: 12 });
const stopStrings = fc.array(
  word.filter((w) => w.length > 0),
  { minLength: 1, maxLength: 4 },
);

describe('StopMatcher', () => {
  it('finds what a naive search over the whole text finds, however the text is cut', () => {
    fc.assert(
      fc.property(chunks, stopStrings, fc.boolean(), (parts, stops, includeStop) => {
        const matcher = new StopMatcher(stops, { includeStop });
        let sent = '';
        let numUntilMatch = 0;
        for (const part of parts) {
          if (matcher.match === null) numUntilMatch++;
          sent += matcher.push(part);
        }
        sent += matcher.flush();
        const whole = parts.join('');
        const expected = naive(whole, stops);
        if (expected === null) {
          expect(matcher.match).toBeNull();
          expect(sent).toBe(whole);
        } else {
          expect(matcher.match).toEqual({ ...expected, numTokens: numUntilMatch });
          expect(sent).toBe(whole.slice(0, expected.index + (includeStop ? expected.stop.length : 0)));
        }
      }),
      { numRuns: process.env.XLLM_TEST_FULL ? 10_000 : 500 },
    );
  });

  it('holds back no more than the start of a stop string, and never half a character', () => {
    fc.assert(
      fc.property(chunks, stopStrings, (parts, stops) => {
        const matcher = new StopMatcher(stops);
        let whole = '';
        let sent = '';
        for (const part of parts) {
          whole += part;
          const text = matcher.push(part);
          if (matcher.match !== null) return;
          sent += text;
          expect(text.isWellFormed()).toBe(true);
          const held = whole.slice(sent.length);
          expect(held === '' || stops.some((stop) => stop.startsWith(held) && stop.length > held.length)).toBe(true);
        }
      }),
    );
  });

  it('counts tokens, those without text too, and drops what comes after a match', () => {
    const matcher = new StopMatcher(['END']);
    expect(['a', '', 'bE', 'N', 'Dx', 'y'].map((t) => matcher.push(t))).toEqual(['a', '', 'b', '', '', '']);
    expect(matcher.match).toEqual({ stop: 'END', index: 2, numTokens: 5 });
    expect(matcher.flush()).toBe('');
  });

  it('does not search the text of the first min_tokens tokens', () => {
    const matcher = new StopMatcher(['x'], { minTokens: 2 });
    expect(['x', 'x', 'ax'].map((t) => matcher.push(t))).toEqual(['x', 'x', 'a']);
    expect(matcher.match).toEqual({ stop: 'x', index: 3, numTokens: 3 });
  });

  it('takes a hostile stop string in linear time', () => {
    const matcher = new StopMatcher([`${'a'.repeat(100_000)}b`]);
    let sent = 0;
    for (let i = 0; i < 300_000; i++) sent += matcher.push('a').length;
    expect(sent).toBe(200_000);
  });
});
