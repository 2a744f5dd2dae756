// Owns the one description of a tokenizer that both sources, tokenizer.json and GGUF metadata, are brought to.
import { type SharedTokenTable, TokenTableBuilder } from './token-table.ts';

/** A token that is found in the text before anything else happens to it. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** A control token: user text never becomes it unless asked, and decoding leaves it out unless asked. */
  readonly special: boolean;
  /** Matches only between non-word characters. */
  readonly singleWord: boolean;
  /** Takes the white space on that side with it. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  /** Is looked for in the normalised text. Special tokens are always looked for in the text as given. */
  readonly normalized: boolean;
}

/** How pieces of text become tokens. Scores are by id. */
export type ModelSpec =
  | {
      readonly kind: 'merges';
      /** In order of rank; 'left right' or a pair. */
      readonly merges: readonly (string | readonly [string, string])[];
      /** A piece that is a token as a whole is that token, whatever the merges say. */
      readonly ignoreMerges: boolean;
    }
  | { readonly kind: 'scores'; readonly scores: ArrayLike<number> }
  | { readonly kind: 'unigram'; readonly scores: ArrayLike<number> };

/** A normalizer or pre-tokenizer in tokenizer.json's form. */
export interface StageSpec {
  readonly type: string;
  readonly [key: string]: unknown;
}

export interface TokenizerSpec {
  readonly model: ModelSpec;
  /** By id; '' where an id has no token. */
  readonly tokens: readonly string[];
  readonly added: readonly AddedToken[];
  /** Ids of `tokens` that merging or segmentation never gives, besides special ones (byte, unused tokens). */
  readonly unreachable: ReadonlySet<number>;
  readonly normalizer: StageSpec | null;
  readonly preTokenizer: StageSpec | null;
  /** Tokens are spelled in GPT-2's byte alphabet; otherwise U+2581 stands for a space and <0xNN> for a byte. */
  readonly byteLevel: boolean;
  /** Characters without a token become byte tokens. */
  readonly byteFallback: boolean;
  /** For characters that no token covers; null drops them. */
  readonly unknownId: number | null;
  readonly fuseUnknown: boolean;
  readonly addsFirstSpace: boolean;
  /** What `addSpecialTokens` puts around a text. */
  readonly prefixIds: readonly number[];
  readonly suffixIds: readonly number[];
  /** Template variables: bos_token, eos_token, … */
  readonly specialTokens: Readonly<Record<string, string>>;
  /** Jinja sources by name; 'default' is the usual one. */
  readonly chatTemplates: ReadonlyMap<string, string>;
}

const byteToken = /^<0x([0-9A-Fa-f]{2})>$/;

/** The byte that a byte-fallback token stands for, else null. */
export function byteOfToken(token: string): number | null {
  const hex = byteToken.exec(token)?.[1];
  return hex === undefined ? null : Number.parseInt(hex, 16);
}

/** What each id stands for, as bytes. */
export function shareSpec(spec: TokenizerSpec): SharedTokenTable {
  const added = new Map(spec.added.map((token) => [token.id, token]));
  const table = new TokenTableBuilder();
  for (const [id, token] of spec.tokens.entries()) {
    const own = added.get(id);
    if (own !== undefined) table.addText(spec.byteLevel ? own.content : withSpaces(own.content), own.special);
    else if (spec.byteLevel) table.addSpelled(token);
    else {
      const byte = spec.byteFallback ? byteOfToken(token) : null;
      if (byte === null) table.addText(withSpaces(token));
      else table.add([byte]);
    }
  }
  return table.share(spec.addsFirstSpace);
}

const withSpaces = (token: string) => token.replaceAll('\u2581', ' ');
