import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { compactTokenizerJson, type TokenizerJson } from '../../scripts/compact-tokenizer.ts';
import type { JsonObject } from '../../src/files/weights-file.ts';
import { Tokenizer } from '../../src/service/text/tokenizer.ts';
import { tokenizerOfJson } from '../../src/service/text/tokenizer-json.ts';
import { readRows, tokenizerFolder, type TokenizerRow } from './text-fixtures.ts';

describe('compactTokenizerJson', () => {
  it('keeps the ids of the texts it is given, and every text encodable', () => {
    const text = readFileSync(`${tokenizerFolder('qwen3')}/tokenizer.json`, 'utf8');
    const json = JSON.parse(text) as TokenizerJson & JsonObject;
    const rows = readRows<TokenizerRow>('tokenizer-qwen3.jsonl');
    const some = rows.filter((_, i) => i % 5 === 0);
    const compact = compactTokenizerJson(
      json,
      some.map((row) => row.text),
    );
    expect(compact.model.merges.length).toBeLessThan(json.model.merges.length / 2);
    const tokenizer = new Tokenizer(tokenizerOfJson(compact, 'compact'));
    const encode = (given: string) => tokenizer.encode(given, { addSpecialTokens: false, parseSpecialTokens: true });
    for (const { text: given, ids } of some) expect(Array.from(encode(given))).toEqual(ids);
    for (const { text: given, ids } of rows) expect(encode(given).length).toBeGreaterThanOrEqual(ids.length);
  });
});
