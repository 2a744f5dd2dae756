// Owns cutting a tokenizer down to what encodes given texts, so that tests can hold it: same ids, a fraction of the size.
//
//   node scripts/compact-tokenizer.ts folder SOURCE TARGET ROWS.jsonl    a folder with tokenizer.json
//   node scripts/compact-tokenizer.ts ggml NAME.gguf...                  llama.cpp's test vocabularies, to stdout
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { openWeights } from '../src/files/open-weights.ts';
import type { GgufMetadata } from '../src/files/weights-file.ts';
import { charOfByte } from '../src/service/text/byte-alphabet.ts';

export interface TokenizerJson {
  readonly model: {
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (string | readonly [string, string])[];
  };
}

const utf8 = new TextEncoder();
const spell = (text: string) => Array.from(utf8.encode(text), (byte) => charOfByte[byte]).join('');

/**
 * Whether a token can arise from the texts: it is one symbol, or a part of their spelling. A merge that never finds its
 * result in a text is never applied, so leaving it out changes no ids.
 */
function keeper(texts: readonly string[], spelling: (text: string) => string): (token: string) => boolean {
  const wellFormed = texts.map((text) => text.toWellFormed());
  const all = [...wellFormed, ...wellFormed.map((text) => text.normalize('NFC'))].map(spelling).join('\n');
  return (token) => Array.from(token).length === 1 || all.includes(token);
}

/** `json`, a byte-level tokenizer.json, with the tokens and merges that `texts` can meet; ids stay. */
export function compactTokenizerJson<Json extends TokenizerJson>(json: Json, texts: readonly string[]): Json {
  const keep = keeper(texts, spell);
  const joined = (merge: string | readonly [string, string]) =>
    typeof merge === 'string' ? merge.replace(' ', '') : merge.join('');
  const vocab = Object.fromEntries(Object.entries(json.model.vocab).filter(([token]) => keep(token)));
  const merges = json.model.merges.filter((merge) => keep(joined(merge)));
  return { ...json, model: { ...json.model, vocab, merges } };
}

function compactFolder(source: string, target: string, rows: string): void {
  const lines = readFileSync(rows, 'utf8').trim().split('\n');
  const texts = lines.map((line) => (JSON.parse(line) as { text: string }).text);
  const json = JSON.parse(readFileSync(join(source, 'tokenizer.json'), 'utf8')) as TokenizerJson;
  mkdirSync(target, { recursive: true });
  writeFileSync(join(target, 'tokenizer.json'), JSON.stringify(compactTokenizerJson(json, texts)));
  const config = JSON.parse(readFileSync(join(source, 'tokenizer_config.json'), 'utf8')) as Record<string, unknown>;
  const { added_tokens_decoder: _, ...rest } = config;
  writeFileSync(join(target, 'tokenizer_config.json'), `${JSON.stringify(rest, null, 2)}\n`);
}

/** One line per vocabulary: name, metadata with lists as objects by id, and rows of text and ids. */
async function compactGgml(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    const weights = await openWeights(path);
    if (weights.kind !== 'gguf') throw new Error(`${path} is no GGUF file`);
    const texts = readFileSync(`${path}.inp`, 'utf8').split('\n__ggml_vocab_test__\n').slice(0, -1);
    const ids = readFileSync(`${path}.out`, 'utf8').split('\n');
    const rows = texts.map((text, i) => ({ text, ids: (ids[i] ?? '').trim().split(' ').filter(Boolean).map(Number) }));
    const isSpelled = weights.metadata.get('tokenizer.ggml.model') === 'gpt2';
    const keep = keeper(texts, isSpelled ? spell : (text) => ` ${text}`.replaceAll(' ', '\u2581'));
    console.log(
      JSON.stringify({ name: basename(path, '.gguf'), metadata: compactMetadata(weights.metadata, keep), rows }),
    );
    weights.close();
  }
}

function compactMetadata(metadata: GgufMetadata, keep: (token: string) => boolean): Record<string, unknown> {
  const prefix = 'tokenizer.ggml.';
  const list = (name: string) => Array.from((metadata.get(prefix + name) ?? []) as ArrayLike<unknown>);
  const tokens = list('tokens') as string[];
  const types = list('token_type');
  const kept = tokens.flatMap((token, id) => (types[id] !== 1 || keep(token) ? [id] : []));
  const byId = (values: readonly unknown[]) => Object.fromEntries(kept.map((id) => [id, values[id]]));
  const compact: Record<string, unknown> = {};
  for (const [key, value] of metadata) {
    if (key.startsWith(prefix) && typeof value !== 'object') compact[key.slice(prefix.length)] = value;
  }
  const merges = (list('merges') as string[]).filter((merge) => keep(merge.replace(' ', '')));
  const scores = list('scores');
  return {
    ...compact,
    tokens: byId(tokens),
    token_type: byId(types),
    ...(scores.length > 0 ? { scores: byId(scores) } : {}),
    ...(merges.length > 0 ? { merges } : {}),
  };
}

async function main([kind, ...rest]: readonly string[]): Promise<void> {
  const [source, target, rows] = rest;
  if (kind === 'folder' && source && target && rows) compactFolder(source, target, rows);
  else if (kind === 'ggml' && source) await compactGgml(rest);
  else throw new Error('usage: folder SOURCE TARGET ROWS.jsonl, or ggml NAME.gguf...');
}

if (import.meta.main) await main(process.argv.slice(2));
