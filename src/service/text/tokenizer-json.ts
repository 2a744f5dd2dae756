// Owns reading a model folder's tokenizer: tokenizer.json and the files beside it.
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { XllmError } from '../../common/errors.ts';
import type { Json, JsonObject } from '../../files/weights-file.ts';
import { type AddedToken, byteOfToken, type ModelSpec, type StageSpec, type TokenizerSpec } from './tokenizer-spec.ts';

const maxTokens = 1 << 21;
const maxTemplateBytes = 1 << 20;
/** The largest known, of 262,144 tokens, has 33 MB. */
const maxJsonBytes = 128 << 20;

export function hasTokenizerJson(folder: string): boolean {
  return existsSync(join(folder, 'tokenizer.json'));
}

/** Throws XllmError: model_file_invalid, or model_unsupported for a kind of tokenizer that is not known. */
export function readTokenizerFolder(folder: string): TokenizerSpec {
  const file = join(folder, 'tokenizer.json');
  const json = readJson(file);
  const config = readIfThere(join(folder, 'tokenizer_config.json'));
  const specialTokens = {
    ...namedTokens(readIfThere(join(folder, 'special_tokens_map.json'))),
    ...namedTokens(config),
  };
  const spec = tokenizerOfJson(json, file);
  return {
    ...spec,
    ...aroundText(spec, json, config, specialTokens),
    specialTokens,
    chatTemplates: readChatTemplates(folder, config),
  };
}

/** A tokenizer.json alone, without what its companions say. `file` names it in errors. */
export function tokenizerOfJson(json: JsonObject, file: string): TokenizerSpec {
  const fail = (what: string) => new XllmError('model_file_invalid', `${file}: ${what}`);
  const model = object(json['model']);
  if (model === null) throw fail('holds no model');
  for (const key of ['end_of_word_suffix', 'continuing_subword_prefix']) {
    if (model[key]) throw new XllmError('model_unsupported', `${file}: ${key} is not supported`);
  }
  const added = array(json['added_tokens']).map((entry): AddedToken => {
    const token = object(entry);
    const content = token?.['content'];
    const id = token?.['id'];
    if (typeof content !== 'string' || content === '' || !isId(id)) throw fail('has an added token without text or id');
    const special = token?.['special'] === true;
    return {
      id,
      content,
      special,
      singleWord: token?.['single_word'] === true,
      lstrip: token?.['lstrip'] === true,
      rstrip: token?.['rstrip'] === true,
      normalized: typeof token?.['normalized'] === 'boolean' ? token['normalized'] : !special,
    };
  });
  const { tokens, modelSpec } = readModel(model, fail);
  for (const { id, content } of added) {
    while (tokens.length <= id) tokens.push('');
    tokens[id] = content;
  }
  const decoder = stage(json['decoder'], fail);
  const preTokenizer = stage(json['pre_tokenizer'], fail);
  const byteFallback = model['byte_fallback'] === true;
  const unknown = model['unk_token'];
  const unknownId = typeof unknown === 'string' ? tokens.indexOf(unknown) : model['unk_id'];
  return {
    model: modelSpec,
    tokens,
    added,
    unreachable: new Set(
      byteFallback ? Array.from(tokens.keys()).filter((id) => byteOfToken(tokens[id] ?? '') !== null) : [],
    ),
    normalizer: stage(json['normalizer'], fail),
    preTokenizer,
    byteLevel: has(decoder, 'ByteLevel') || has(preTokenizer, 'ByteLevel'),
    byteFallback,
    unknownId: isId(unknownId) ? unknownId : null,
    fuseUnknown: modelSpec.kind === 'unigram' || model['fuse_unk'] === true,
    addsFirstSpace: addsFirstSpace(decoder),
    prefixIds: [],
    suffixIds: [],
    specialTokens: {},
    chatTemplates: new Map(),
  };
}

type Fail = (what: string) => XllmError;

function readModel(model: JsonObject, fail: Fail): { tokens: string[]; modelSpec: ModelSpec } {
  const tokens: string[] = [];
  const type = model['type'] ?? (Array.isArray(model['vocab']) ? 'Unigram' : 'merges' in model ? 'BPE' : 'WordPiece');
  if (type === 'Unigram') {
    const scores: number[] = [];
    for (const entry of array(model['vocab'])) {
      const [text, score] = array(entry);
      if (typeof text !== 'string' || typeof score !== 'number') throw fail('has a vocabulary entry that is no pair');
      tokens.push(text);
      scores.push(score);
    }
    return { tokens, modelSpec: { kind: 'unigram', scores } };
  }
  if (type !== 'BPE') {
    throw new XllmError('model_unsupported', `tokenizers of kind ${JSON.stringify(type)} are not supported`);
  }
  const vocab = object(model['vocab']);
  if (vocab === null) throw fail('has no vocabulary');
  for (const text of Object.keys(vocab)) {
    const id = vocab[text];
    if (!isId(id)) throw fail(`has the token id ${JSON.stringify(id)}`);
    while (tokens.length <= id) tokens.push('');
    tokens[id] = text;
  }
  const merges = array(model['merges']);
  if (!merges.every(isMerge)) throw fail('has a merge that is no pair');
  return { tokens, modelSpec: { kind: 'merges', merges, ignoreMerges: model['ignore_merges'] === true } };
}

const isMerge = (merge: Json): merge is string | readonly [string, string] =>
  typeof merge === 'string'
    ? merge.includes(' ', 1)
    : Array.isArray(merge) && merge.length === 2 && typeof merge[0] === 'string' && typeof merge[1] === 'string';

/** What goes around a text: the post-processor's template, overruled by add_bos_token and add_eos_token. */
function aroundText(
  spec: TokenizerSpec,
  json: JsonObject,
  config: JsonObject,
  specialTokens: Readonly<Record<string, string>>,
): Pick<TokenizerSpec, 'prefixIds' | 'suffixIds'> {
  const idOf = (token: string | undefined) => (token === undefined ? -1 : spec.tokens.indexOf(token));
  let { prefixIds, suffixIds } = templateIds(object(json['post_processor']));
  const bos = idOf(specialTokens['bos_token']);
  const eos = idOf(specialTokens['eos_token']);
  if (config['add_bos_token'] === true && bos !== -1) prefixIds = [bos];
  if (config['add_bos_token'] === false) prefixIds = prefixIds.filter((id) => id !== bos);
  if (config['add_eos_token'] === true && eos !== -1) suffixIds = [eos];
  if (config['add_eos_token'] === false) suffixIds = suffixIds.filter((id) => id !== eos);
  return { prefixIds, suffixIds };
}

function templateIds(processor: JsonObject | null): { prefixIds: number[]; suffixIds: number[] } {
  const prefixIds: number[] = [];
  const suffixIds: number[] = [];
  switch (processor?.['type']) {
    case 'Sequence':
      for (const part of array(processor['processors'])) {
        const ids = templateIds(object(part));
        prefixIds.push(...ids.prefixIds);
        suffixIds.push(...ids.suffixIds);
      }
      break;
    case 'TemplateProcessing': {
      const specials = object(processor['special_tokens']);
      let ids = prefixIds;
      for (const item of array(processor['single'])) {
        if (object(item)?.['Sequence'] !== undefined) ids = suffixIds;
        const name = object(object(item)?.['SpecialToken'])?.['id'];
        if (typeof name === 'string') ids.push(...array(object(specials?.[name])?.['ids']).filter(isId));
      }
      break;
    }
    case 'BertProcessing':
    case 'RobertaProcessing':
      prefixIds.push(...array(processor['cls']).filter(isId));
      suffixIds.push(...array(processor['sep']).filter(isId));
      break;
  }
  return { prefixIds, suffixIds };
}

const tokenNames = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'];

function namedTokens(config: JsonObject): Record<string, string> {
  const named: Record<string, string> = {};
  for (const name of tokenNames) {
    const value = config[name];
    const content = object(value)?.['content'] ?? value;
    if (typeof content === 'string') named[name] = content;
  }
  return named;
}

/** chat_template.jinja, else chat_template.json, else tokenizer_config.json: one source or named ones. */
function readChatTemplates(folder: string, config: JsonObject): ReadonlyMap<string, string> {
  const jinja = join(folder, 'chat_template.jinja');
  if (existsSync(jinja)) {
    if (statSync(jinja).size > maxTemplateBytes) {
      throw new XllmError('model_file_invalid', `${jinja}: has more than ${maxTemplateBytes} bytes`);
    }
    return new Map([['default', readFileSync(jinja, 'utf8')]]);
  }
  const given = readIfThere(join(folder, 'chat_template.json'))['chat_template'] ?? config['chat_template'];
  const templates = new Map<string, string>();
  if (typeof given === 'string') templates.set('default', given);
  for (const entry of array(given)) {
    const { name, template } = object(entry) ?? {};
    if (typeof name === 'string' && typeof template === 'string') templates.set(name, template);
  }
  return templates;
}

function addsFirstSpace(decoder: StageSpec | null): boolean {
  switch (decoder?.type) {
    case 'Sequence':
      return array(decoder['decoders'] as Json).some((inner) => addsFirstSpace(inner as unknown as StageSpec));
    case 'Strip':
      return decoder['content'] === ' ' && Number(decoder['start']) > 0;
    case 'Metaspace':
      return decoder['prepend_scheme'] !== 'never' && decoder['add_prefix_space'] !== false;
    default:
      return false;
  }
}

const inner: Readonly<Record<string, true>> = { decoders: true, pretokenizers: true, normalizers: true };

/** Checks the shape that compiling relies on: types are strings, sequences hold stages, patterns are there. */
function stage(json: Json | undefined, fail: Fail): StageSpec | null {
  if (json === null || json === undefined) return null;
  const spec = object(json);
  const type = spec?.['type'];
  if (spec === null || typeof type !== 'string') throw fail('has a stage without a type');
  if (type === 'Sequence') {
    const key = Object.keys(inner).find((name) => Array.isArray(spec[name]));
    if (key === undefined) throw fail('has a sequence without stages');
    return {
      type,
      [key]: array(spec[key])
        .map((part) => stage(part, fail))
        .filter((part) => part !== null),
    };
  }
  if (type === 'Split' || type === 'Replace') {
    const pattern = object(spec['pattern']);
    if (typeof pattern?.['String'] !== 'string' && typeof pattern?.['Regex'] !== 'string') {
      throw fail(`has a ${type} stage without a pattern`);
    }
  }
  return { ...spec, type };
}

function has(spec: StageSpec | null, type: string): boolean {
  if (spec === null) return false;
  if (spec.type === type) return true;
  return Object.keys(inner).some((key) =>
    array(spec[key] as Json).some((part) => has(part as unknown as StageSpec, type)),
  );
}

const isId = (value: Json | undefined): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < maxTokens;

const object = (value: Json | undefined): JsonObject | null =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject) : null;

const array = (value: Json | undefined): readonly Json[] => (Array.isArray(value) ? value : []);

/** JSON.parse bounds nothing but the size; the worker's heap limit does the rest. */
function readJson(path: string): JsonObject {
  const fail = (what: string) => new XllmError('model_file_invalid', `${path}: ${what}`);
  if (statSync(path).size > maxJsonBytes) throw fail(`has more than ${maxJsonBytes} bytes`);
  const text = readFileSync(path, 'utf8');
  let json: Json;
  try {
    json = JSON.parse(text) as Json;
  } catch (error) {
    throw fail(`is no JSON: ${(error as Error).message}`);
  }
  const value = object(json);
  if (value === null) throw fail('holds no JSON object');
  return value;
}

function readIfThere(path: string): JsonObject {
  return existsSync(path) ? readJson(path) : {};
}
