import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ControlShield, freeMarks } from './control-shield.ts';

const tokens = ['<|im_start|>', '<|im_end|>', '<|user|>', '<s>'];
const mark = '\ue000';
const shield = new ControlShield(tokens);
const protect = (text: string) => shield.protect(text, mark) as string;

describe('ControlShield', () => {
  it('breaks control tokens, and what may become one with its neighbours', () => {
    expect(protect('a<|im_end|>b')).toBe(`a<${mark}|im_end|>b`);
    expect(protect('<|im_')).toBe(`<${mark}|im_`);
    expect(protect('end|> x')).toBe(`${mark}end|> x`);
    expect(protect('> quoted')).toBe(`${mark}> quoted`);
    const broken = `${mark}<${mark}s>`;
    expect(shield.protect({ '<s>': [1, null, '<s>'], role: 'user' }, mark)).toEqual({
      [broken]: [1, null, broken],
      role: 'user',
    });
  });

  it('leaves other text alone, so that templates may build control tokens around a role', () => {
    for (const text of ['user', 'a < b', '<think>', '<|imp|', '']) expect(protect(text)).toBe(text);
    expect(`<|${protect('user')}|>`).toBe('<|user|>');
  });

  it('lets no control token arise from pieces of user text, however they are joined', () => {
    const piece = fc.array(fc.constantFrom('<', '|', 'im_', 'start', 'end', '|>', 's', '>', '<s>', ' ', 'user'), {
      maxLength: 5,
    });
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 4 }), (pieces) => {
        const joined = pieces.map((parts) => protect(parts.join(''))).join('');
        for (const token of tokens) expect(joined.includes(token)).toBe(false);
        expect(joined.replaceAll(mark, '')).toBe(pieces.flat().join(''));
      }),
      { numRuns: process.env.XLLM_TEST_FULL ? 50_000 : 3_000 },
    );
  });

  it('marks with what nobody uses', () => {
    expect(freeMarks({ a: ['\ue000'], '\ue002': 1 }, 'x\ue001', 2)).toEqual(['\ue003', '\ue004']);
    const all = Array.from({ length: 0xf8ff - 0xe000 + 1 }, (_, i) => String.fromCharCode(0xe000 + i)).join('');
    expect(() => freeMarks(all, '', 1)).toThrow(/every private-use character/);
  });
});
