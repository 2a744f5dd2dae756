// Owns reading a tokenizer from GGUF metadata (`tokenizer.ggml.*`, `tokenizer.chat_template`).
import { XllmError } from '../../common/errors.ts';
import type { GgufArray, GgufMetadata, GgufValue } from '../../files/weights-file.ts';
import { ggmlPreTokenizer } from './ggml-pre-tokenizers.ts';
import type { AddedToken, ModelSpec, StageSpec, TokenizerSpec } from './tokenizer-spec.ts';

/** Values of `tokenizer.ggml.token_type`. Source: `llama_token_type` in llama.h. */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export function hasGgufTokenizer(metadata: GgufMetadata): boolean {
  const model = metadata.get('tokenizer.ggml.model');
  return model !== undefined && model !== 'no_vocab' && model !== 'none';
}

/**
 * Which rules hold for a `tokenizer.ggml.model` where the file is silent. Source: `llama_vocab::impl::load` in
 * llama.cpp, src/llama-vocab.cpp.
 */
interface ModelRules {
  readonly model: ModelSpec;
  readonly normalizer: StageSpec | null;
  readonly preTokenizer: StageSpec | null;
  readonly byteLevel: boolean;
  readonly addSpacePrefix: boolean;
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** Ids of bos, eos and unk where the file gives none. */
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly unknownId: number | null;
}

/** Throws XllmError: model_file_invalid, or model_unsupported for a kind of tokenizer that is not known. */
export function readGgufTokenizer(metadata: GgufMetadata): TokenizerSpec {
  const tokens = [...strings(metadata, 'tokens')];
  const types = numbers(metadata, 'token_type');
  const rules = rulesOf(metadata);
  const byType = (...wanted: number[]) =>
    Array.from(tokens.keys()).filter((id) => wanted.includes(types?.[id] ?? tokenType.normal));
  const special = byType(tokenType.control, tokenType.unknown);
  const added = [...special, ...byType(tokenType.userDefined)]
    .map((id) => ({ id, content: tokens[id] ?? '' }))
    .filter(({ content }) => content !== '')
    .map(({ id, content }, i): AddedToken => {
      const flags = { singleWord: false, lstrip: false, rstrip: false, normalized: false };
      return { id, content, special: i < special.length, ...flags };
    });
  const bosId = tokenId(metadata, 'bos_token_id', tokens) ?? rules.bosId;
  const eosId = tokenId(metadata, 'eos_token_id', tokens) ?? rules.eosId;
  const unknownId = tokenId(metadata, 'unknown_token_id', tokens) ?? rules.unknownId;
  const addsFirstSpace = flag(metadata, 'add_space_prefix', rules.addSpacePrefix);
  const named = { bos_token: bosId, eos_token: eosId, unk_token: unknownId };
  const padId = tokenId(metadata, 'padding_token_id', tokens);
  const texts = Object.entries({ ...named, pad_token: padId }).map(([name, id]) => [
    name,
    id === null ? '' : tokens[id],
  ]);
  const hasBytes = tokens.includes('<0x00>');
  return {
    model: rules.model,
    tokens,
    added,
    unreachable: new Set(byType(tokenType.unused, tokenType.byte)),
    normalizer: addsFirstSpace ? withFirstSpace(rules.normalizer) : rules.normalizer,
    preTokenizer: rules.preTokenizer,
    byteLevel: rules.byteLevel,
    byteFallback: !rules.byteLevel && hasBytes,
    unknownId: rules.byteLevel ? null : unknownId,
    fuseUnknown: rules.model.kind === 'unigram',
    addsFirstSpace,
    prefixIds: flag(metadata, 'add_bos_token', rules.addBos) && bosId !== null ? [bosId] : [],
    suffixIds: flag(metadata, 'add_eos_token', rules.addEos) && eosId !== null ? [eosId] : [],
    specialTokens: Object.fromEntries(texts.filter(([, text]) => text)),
    chatTemplates: readChatTemplates(metadata),
  };
}

/** SentencePiece writes spaces as U+2581. */
const markSpaces: StageSpec = { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' };

function withFirstSpace(normalizer: StageSpec | null): StageSpec {
  const rest = normalizer === null ? [] : [normalizer];
  return { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: ' ' }, ...rest] };
}

function rulesOf(metadata: GgufMetadata): ModelRules {
  const kind = metadata.get('tokenizer.ggml.model');
  const common = { normalizer: null, preTokenizer: null, addSpacePrefix: false, addBos: false, addEos: false };
  const noIds = { bosId: null, eosId: null, unknownId: null };
  switch (kind) {
    case 'gpt2': {
      const pre = metadata.get('tokenizer.ggml.pre');
      const { stage, ignoreMerges, addBos } = ggmlPreTokenizer(typeof pre === 'string' ? pre : 'default');
      const model = { kind: 'merges', merges: strings(metadata, 'merges'), ignoreMerges } as const;
      return { ...common, ...noIds, model, preTokenizer: stage, byteLevel: true, addBos };
    }
    case 'gemma4': {
      const model = { kind: 'merges', merges: strings(metadata, 'merges'), ignoreMerges: false } as const;
      return { ...common, ...noIds, model, normalizer: markSpaces, byteLevel: false, addBos: true };
    }
    case 'llama': {
      const model = { kind: 'scores', scores: scores(metadata) } as const;
      const ids = { bosId: 1, eosId: 2, unknownId: 0 };
      return { ...common, ...ids, model, normalizer: markSpaces, byteLevel: false, addSpacePrefix: true, addBos: true };
    }
    case 't5': {
      const model = { kind: 'unigram', scores: scores(metadata) } as const;
      const ids = { bosId: null, eosId: 1, unknownId: 2 };
      const charsmap: StageSpec = { type: 'Precompiled', precompiled_charsmap: null };
      const squeeze: StageSpec = { type: 'Replace', pattern: { Regex: ' {2,}' }, content: ' ' };
      const strip: StageSpec = { type: 'Strip', strip_left: true, strip_right: true };
      const normalizer: StageSpec = { type: 'Sequence', normalizers: [charsmap, strip, squeeze] };
      const preTokenizer: StageSpec = { type: 'Metaspace', prepend_scheme: 'always', split: true };
      return { ...common, ...ids, model, normalizer, preTokenizer, byteLevel: false, addEos: true };
    }
    default:
      throw new XllmError(
        'model_unsupported',
        `the file's tokenizer is of kind ${JSON.stringify(kind)}; known are gpt2, llama, t5, gemma4`,
      );
  }
}

/** `tokenizer.chat_template`, and `tokenizer.chat_template.NAME` for each of `tokenizer.chat_templates`. */
function readChatTemplates(metadata: GgufMetadata): ReadonlyMap<string, string> {
  const prefix = 'tokenizer.chat_template';
  const templates = new Map<string, string>();
  for (const [key, value] of metadata) {
    if (typeof value !== 'string') continue;
    if (key === prefix) templates.set('default', value);
    else if (key.startsWith(`${prefix}.`)) templates.set(key.slice(prefix.length + 1), value);
  }
  return templates;
}

const valueOf = (metadata: GgufMetadata, name: string) => metadata.get(`tokenizer.ggml.${name}`);

const isArray = (value: GgufValue | undefined): value is GgufArray => typeof value === 'object';

function invalid(name: string, what: string): XllmError {
  return new XllmError('model_file_invalid', `the file's tokenizer.ggml.${name} ${what}`);
}

function strings(metadata: GgufMetadata, name: string): readonly string[] {
  const value = valueOf(metadata, name);
  if (!isArray(value) || !Array.isArray(value) || value.some((item) => typeof item !== 'string')) {
    throw invalid(name, 'is no list of strings');
  }
  return value as readonly string[];
}

function numbers(metadata: GgufMetadata, name: string): ArrayLike<number> | null {
  const value = valueOf(metadata, name);
  if (value === undefined) return null;
  if (!isArray(value) || Array.isArray(value)) throw invalid(name, 'is no list of numbers');
  return value as unknown as ArrayLike<number>;
}

function scores(metadata: GgufMetadata): ArrayLike<number> {
  const values = numbers(metadata, 'scores');
  if (values === null) throw invalid('scores', 'is missing');
  return values;
}

function tokenId(metadata: GgufMetadata, name: string, tokens: readonly string[]): number | null {
  const value = valueOf(metadata, name);
  return typeof value === 'number' && tokens[value] !== undefined ? value : null;
}

function flag(metadata: GgufMetadata, name: string, otherwise: boolean): boolean {
  const value = valueOf(metadata, name);
  return typeof value === 'boolean' ? value : otherwise;
}
