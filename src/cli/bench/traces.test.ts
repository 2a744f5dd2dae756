import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { promptMaker, traceRequests } from './prompts.ts';
import { fitTrace, parseTrace } from './traces.ts';

const read = (name: string): string =>
  readFileSync(new URL(`../../../test/fixtures/traces/${name}`, import.meta.url), 'utf8');

describe('parseTrace', () => {
  it('reads Azure rows: 7-digit fractions, CR LF, no newline at the end', () => {
    const entries = parseTrace(read('azure-code.csv'), 'azure-code.csv');
    expect(entries).toHaveLength(300);
    expect(entries[0]).toEqual({ atMs: 0, inputLen: 4808, outputLen: 10, blockIds: [] });
    expect(entries[1]).toMatchObject({ inputLen: 3180, outputLen: 8 });
    expect(entries[1]?.atMs).toBeCloseTo(52, 4);
    expect(entries.at(-1)?.outputLen).toBe(88);
    expect(parseTrace(read('azure-conv.csv'), 'azure-conv.csv')).toHaveLength(300);
  });

  it('keeps fractions below a millisecond', () => {
    const text =
      'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.0000001,1,2\n2023-11-16 18:17:04.0006501,3,4';
    expect(parseTrace(text, 'x')[1]?.atMs).toBeCloseTo(1000.65, 3);
  });

  it('reads Mooncake rows with their block ids', () => {
    const entries = parseTrace(read('mooncake-conversation.jsonl'), 'mooncake.jsonl');
    expect(entries).toHaveLength(200);
    expect(entries[0]).toMatchObject({ atMs: 0, inputLen: 6758, outputLen: 500 });
    expect(entries[0]?.blockIds).toHaveLength(Math.ceil(6758 / 512));
    expect(entries.every((entry, i) => entry.atMs >= (entries[i - 1]?.atMs ?? 0))).toBe(true);
  });

  it('names the line that is not understood', () => {
    const header = 'TIMESTAMP,ContextTokens,GeneratedTokens\n';
    expect(() => parseTrace(`${header}2023-11-16 18:17:03.1,1,2\noops`, 'a.csv')).toThrow(/a\.csv, line 3/);
    expect(() => parseTrace('{"timestamp": 1}', 'm.jsonl')).toThrow(/m\.jsonl, line 1/);
    expect(() => parseTrace('{"timestamp": ', 'm.jsonl')).toThrow(/m\.jsonl, line 1/);
    expect(() => parseTrace('a,b\n1,2', 'b.csv')).toThrow(/neither/);
  });
});

describe('fitTrace', () => {
  const entries = parseTrace(read('azure-conv.csv'), 'azure-conv.csv');
  const longest = Math.max(...entries.map((entry) => entry.inputLen));

  it('scales lengths by one factor each and arrivals by the speed', () => {
    const { entries: fitted, fit } = fitTrace(entries, { maxInputLen: 500, maxOutputLen: 10_000, speed: 4 });
    expect(fit).toEqual({ inputFactor: 500 / longest, outputFactor: 1 });
    expect(Math.max(...fitted.map((entry) => entry.inputLen))).toBe(500);
    expect(fitted.at(-1)?.atMs).toBe((entries.at(-1)?.atMs ?? 0) / 4);
    expect(fitted.map((entry) => entry.outputLen)).toEqual(entries.map((entry) => entry.outputLen));
    expect(fitted.every((entry) => entry.inputLen >= 1)).toBe(true);
  });
});

describe('traceRequests', () => {
  it('gives equal block ids equal tokens, cut to the prompt, also when scaled', () => {
    const all = parseTrace(read('mooncake-conversation.jsonl'), 'm').slice(0, 40);
    const { entries, fit } = fitTrace(all, { maxInputLen: 2000, speed: 1 });
    const requests = traceRequests(entries, fit.inputFactor, promptMaker('ids', 5000), 9);
    const blockTokens = Math.max(1, Math.round(512 * fit.inputFactor));
    requests.forEach((request, i) => {
      expect(request.prompt).toHaveLength(entries[i]!.inputLen);
      expect(request.maxTokens).toBe(entries[i]!.outputLen);
      for (let j = 0; j < i; j++) {
        const mine = entries[i]!.blockIds;
        const other = entries[j]!.blockIds;
        const shared = mine.findIndex((id, k) => id !== other[k]);
        const numShared = (shared === -1 ? mine.length : shared) * blockTokens;
        const cut = Math.min(numShared, entries[i]!.inputLen, entries[j]!.inputLen);
        expect(request.prompt.slice(0, cut)).toEqual(requests[j]!.prompt.slice(0, cut));
        const after = Math.min(numShared + 3, entries[i]!.inputLen, entries[j]!.inputLen);
        if (after > numShared) expect(request.prompt.slice(0, after)).not.toEqual(requests[j]!.prompt.slice(0, after));
      }
    });
  });
});
