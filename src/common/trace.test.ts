import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatTraceparent, parseTraceparent } from './trace.ts';

const trace = '4bf92f3577b34da6a3ce929d0e0e4736';
const span = '00f067aa0ba902b7';

test.each([
  [`00-${trace}-${span}-01`, { traceId: trace, spanId: span, isSampled: true }],
  [`00-${trace}-${span}-00`, { traceId: trace, spanId: span, isSampled: false }],
  // A later version may carry more, and is read as far as it is known.
  [`01-${trace}-${span}-01-more`, { traceId: trace, spanId: span, isSampled: true }],
  [`01-${trace}-${span}-01`, { traceId: trace, spanId: span, isSampled: true }],
  [`01-${trace}-${span}-01more`, null],
  [`00-${trace}-${span}-01-more`, null],
  [`00-${trace}-${span}-0`, null],
  [`ff-${trace}-${span}-01`, null],
  [`00-${'0'.repeat(32)}-${span}-01`, null],
  [`00-${trace}-${'0'.repeat(16)}-01`, null],
  [`00-${trace.toUpperCase()}-${span}-01`, null],
  ['', null],
  [undefined, null],
  [[`00-${trace}-${span}-01`], null],
])('%s', (header, expected) => {
  expect(parseTraceparent(header)).toEqual(expected);
});

test('what is written is read back', () => {
  const hex = (length: number) =>
    fc
      .string({ unit: fc.constantFrom(...'0123456789abcdef'.split('')), minLength: length, maxLength: length })
      .filter((text) => /[^0]/.test(text));
  fc.assert(
    fc.property(hex(32), hex(16), fc.boolean(), (traceId, spanId, isSampled) => {
      const context = { traceId, spanId, isSampled };
      expect(parseTraceparent(formatTraceparent(context))).toEqual(context);
    }),
  );
});
