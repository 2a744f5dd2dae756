// Owns the two parts of @huggingface/tokenizers in use: its normalizers, and Oniguruma patterns turned into JavaScript's.
import * as library from '@huggingface/tokenizers';
import { XllmError } from '../../common/errors.ts';
import type { StageSpec } from './tokenizer-spec.ts';

// Version 0.2.0's declarations import each other without file extensions, which TypeScript does not resolve here.
const { SplitPreTokenizer, Tokenizer } = library as unknown as {
  readonly SplitPreTokenizer: new (config: StageSpec) => { readonly pattern: RegExp | null };
  readonly Tokenizer: new (
    json: object,
    config: object,
  ) => { readonly normalizer: { normalize(text: string): string } | null };
};

/** The global, unicode-aware RegExp of a Split stage. Throws XllmError model_unsupported. */
export function libraryPattern(pattern: { readonly String?: string; readonly Regex?: string }): RegExp {
  return supported(`pattern ${JSON.stringify(pattern)}`, () => {
    const { pattern: compiled } = new SplitPreTokenizer({ type: 'Split', pattern });
    if (compiled === null) throw new SyntaxError('neither a string nor a regular expression');
    return compiled;
  });
}

/** The library builds a normalizer only as part of a tokenizer; this one has no vocabulary. */
export function libraryNormalizer(spec: StageSpec): ((text: string) => string) | null {
  const none = { pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
  const { normalizer } = supported(
    'normalizer',
    () => new Tokenizer({ ...none, model: { type: 'BPE', vocab: {}, merges: [] }, normalizer: spec }, {}),
  );
  return normalizer === null ? null : (text) => normalizer.normalize(text);
}

function supported<T>(what: string, build: () => T): T {
  try {
    return build();
  } catch (error) {
    throw new XllmError('model_unsupported', `the tokenizer's ${what}: ${(error as Error).message}`, { cause: error });
  }
}
