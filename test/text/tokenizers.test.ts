// Owns the comparison of our tokenizers with the ids that the models' own tokenizers give.
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { ggmlPreTokenizer, ggmlPreTokenizerNames } from '../../src/service/text/ggml-pre-tokenizers.ts';
import { compilePreTokenizer } from '../../src/service/text/pre-tokenizer.ts';
import { decodeTokens } from '../../src/service/text/stream-decoder.ts';
import { TokenTable } from '../../src/service/text/token-table.ts';
import { Tokenizer } from '../../src/service/text/tokenizer.ts';
import { readGgufTokenizer } from '../../src/service/text/tokenizer-gguf.ts';
import { shareSpec } from '../../src/service/text/tokenizer-spec.ts';
import { readFixture, readGgmlVocabularies, readRows, readSpec, type TokenizerRow } from './text-fixtures.ts';

describe.each(['smollm2', 'qwen3', 'deepseek_v3'] as const)('the rows of %s', (name) => {
  it('have the same ids, with control tokens recognised and as text, and decode to the same text', async () => {
    const spec = await readSpec(name);
    const tokenizer = new Tokenizer(spec);
    const table = new TokenTable(shareSpec(spec));
    const rows = readRows<TokenizerRow>(`tokenizer-${name}.jsonl`);
    expect(rows.length).toBeGreaterThan(200);
    for (const { text, ids, ids_specials_as_text: asText = ids, decoded, replaced = text } of rows) {
      const encode = (parseSpecialTokens: boolean) =>
        Array.from(tokenizer.encode(text, { addSpecialTokens: false, parseSpecialTokens }));
      expect(encode(true), JSON.stringify(text)).toEqual(ids);
      expect(encode(false), JSON.stringify(text)).toEqual(asText);
      const options = { skipSpecialTokens: false };
      expect(decodeTokens(table, Int32Array.from(ids), options)).toBe(decoded ?? replaced);
    }
  });
});

describe.each(readGgmlVocabularies())('the vocabulary $name', ({ metadata, rows }) => {
  it("gives the ids of the model's own tokenizer", () => {
    const tokenizer = new Tokenizer(readGgufTokenizer(metadata));
    expect(rows.length).toBeGreaterThan(40);
    for (const { text, ids } of rows) {
      const got = tokenizer.encode(text, { addSpecialTokens: false, parseSpecialTokens: false });
      expect(Array.from(got), JSON.stringify(text)).toEqual(ids);
    }
  });
});

/** The pieces of all texts under each name; what the file holds is their hashes. */
function hashesOfPieces(): Record<string, string> {
  const texts = readRows<TokenizerRow>('tokenizer-qwen3.jsonl').map(({ text }) => text.toWellFormed());
  return Object.fromEntries(
    ggmlPreTokenizerNames.map((name) => {
      const preTokenize = compilePreTokenizer(ggmlPreTokenizer(name).stage);
      const pieces: string[][] = texts.map((text) => {
        const list: string[] = [];
        preTokenize(text, true, (piece) => list.push(piece));
        expect(list.join('')).toBe(text);
        return list;
      });
      return [name, createHash('sha256').update(JSON.stringify(pieces)).digest('hex').slice(0, 16)];
    }),
  );
}

describe('the pre-tokenizers of GGUF files', () => {
  it('cut as recorded', () => {
    expect(hashesOfPieces()).toEqual(JSON.parse(readFixture('pre-tokenizer-pieces.json')));
  });
});
