// Owns reading the text fixtures and the tokenizers that they are about.
import { readFileSync } from 'node:fs';
import { openWeights } from '../../src/files/open-weights.ts';
import { resolveModel } from '../../src/files/resolve/resolve-model.ts';
import { modelSettings } from '../../src/files/resolve/settings.ts';
import type { GgufMetadata, GgufValue } from '../../src/files/weights-file.ts';
import { readGgufTokenizer } from '../../src/service/text/tokenizer-gguf.ts';
import { readTokenizerFolder } from '../../src/service/text/tokenizer-json.ts';
import type { TokenizerSpec } from '../../src/service/text/tokenizer-spec.ts';

const folder = `${import.meta.dirname}/../fixtures/text`;

export const tokenizerFolder = (name: 'qwen3' | 'deepseek_v3') => `${folder}/${name}`;

export const readFixture = (name: string) => readFileSync(`${folder}/${name}`, 'utf8');

export function readRows<Row>(name: string): Row[] {
  return readFixture(name)
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Row);
}

export interface TokenizerRow {
  readonly text: string;
  readonly ids: readonly number[];
  readonly ids_specials_as_text?: readonly number[];
  readonly decoded?: string;
  readonly replaced?: string;
}

export async function defaultModelPath(): Promise<string> {
  return (await resolveModel(undefined, { settings: modelSettings(process.env) })).path;
}

export async function readSpec(name: 'smollm2' | 'qwen3' | 'deepseek_v3'): Promise<TokenizerSpec> {
  if (name !== 'smollm2') return readTokenizerFolder(tokenizerFolder(name));
  const weights = await openWeights(await defaultModelPath());
  try {
    if (weights.kind !== 'gguf') throw new Error('the default model is a GGUF file');
    return readGgufTokenizer(weights.metadata);
  } finally {
    weights.close();
  }
}

export interface GgmlVocabulary {
  readonly name: string;
  readonly metadata: GgufMetadata;
  readonly rows: readonly TokenizerRow[];
}

interface SparseMetadata {
  readonly tokens: Readonly<Record<string, string>>;
  readonly token_type: Readonly<Record<string, number>>;
  readonly scores?: Readonly<Record<string, number>>;
  readonly merges?: readonly string[];
}

export function readGgmlVocabularies(): GgmlVocabulary[] {
  type Line = { name: string; metadata: SparseMetadata & Record<string, GgufValue>; rows: TokenizerRow[] };
  return readRows<Line>('ggml-vocabularies.jsonl').map(({ name, metadata, rows }) => {
    const { tokens, token_type, scores, ...rest } = metadata;
    const numTokens = Math.max(...Object.keys(tokens).map(Number)) + 1;
    const dense = <T>(sparse: Readonly<Record<string, T>>, otherwise: T) =>
      Array.from({ length: numTokens }, (_, id) => sparse[id] ?? otherwise);
    const entries: [string, GgufValue][] = [
      ...Object.entries(rest),
      ['tokens', dense(tokens, '')],
      ['token_type', Int32Array.from(dense(token_type, 1))],
    ];
    if (scores !== undefined) entries.push(['scores', Float32Array.from(dense(scores, 0))]);
    return { name, rows, metadata: new Map(entries.map(([key, value]) => [`tokenizer.ggml.${key}`, value])) };
  });
}
