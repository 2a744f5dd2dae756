// Owns encoding: text to token ids, by the description of a tokenizer.
import { invariant } from '../../common/errors.ts';
import { AddedTokens, type Section } from './added-tokens.ts';
import { ListedPairs, PairMerger, ScoredPairs } from './bpe.ts';
import { charOfByte } from './byte-alphabet.ts';
import { compileNormalizer, type Normalize } from './normalizer.ts';
import { compilePreTokenizer, type PreTokenize } from './pre-tokenizer.ts';
import type { EncodeOptions } from './text-service.ts';
import { PieceCache } from './piece-cache.ts';
import type { TokenizerSpec } from './tokenizer-spec.ts';
import { Unigram } from './unigram.ts';
import { Vocabulary } from './vocabulary.ts';

/** Longer pieces are rare and their entries large, so they are not cached. */
const maxCachedUnits = 64;
/** A symbol that no token covers; it merges with nothing. Also what a vocabulary finds where there is no token. */
const unknown = -1;

const utf8 = new TextEncoder();

export class Tokenizer {
  readonly #spec: TokenizerSpec;
  readonly #allAdded: AddedTokens;
  readonly #plainAdded: AddedTokens;
  readonly #normalizedAdded: AddedTokens;
  readonly #normalize: Normalize;
  readonly #preTokenize: PreTokenize;
  /** What merging or segmentation may give. */
  readonly #vocabulary: Vocabulary;
  readonly #byteIds: Int32Array;
  readonly #merger: PairMerger | null;
  readonly #unigram: Unigram | null;
  readonly #cache = new PieceCache();
  #symbols = new Int32Array(256);

  /** Throws XllmError model_unsupported for stages that are not known. */
  constructor(spec: TokenizerSpec) {
    this.#spec = spec;
    this.#normalize = compileNormalizer(spec.normalizer);
    this.#preTokenize = compilePreTokenizer(spec.preTokenizer);
    const raw = spec.added.filter((token) => token.special || !token.normalized);
    const normalized = spec.added.filter((token) => !token.special && token.normalized);
    this.#allAdded = new AddedTokens(raw);
    this.#plainAdded = new AddedTokens(raw.filter((token) => !token.special));
    this.#normalizedAdded = new AddedTokens(
      normalized,
      normalized.map((token) => this.#normalize(token.content)),
    );
    this.#vocabulary = reachable(spec);
    this.#byteIds = Int32Array.from({ length: 256 }, (_, byte) => {
      const text = spec.byteLevel
        ? charOfByte[byte]! // byte < 256
        : `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
      return spec.byteLevel ? this.#vocabulary.find(text) : spec.tokens.indexOf(text);
    });
    const { model } = spec;
    this.#unigram = model.kind === 'unigram' ? new Unigram(this.#vocabulary, model.scores) : null;
    this.#merger =
      model.kind === 'merges'
        ? new PairMerger(new ListedPairs(mergedIds(model.merges, this.#vocabulary)))
        : model.kind === 'scores'
          ? new PairMerger(new ScoredPairs(this.#vocabulary, model.scores))
          : null;
  }

  /** Lone surrogates count as U+FFFD. Time n log n in the text. */
  encode(text: string, { addSpecialTokens, parseSpecialTokens }: EncodeOptions): Int32Array {
    const added = parseSpecialTokens ? this.#allAdded : this.#plainAdded;
    const ids: number[] = [];
    this.#encodeSections(added.split(text.toWellFormed()), ids);
    return Int32Array.from(addSpecialTokens ? this.#withSpecialTokens(ids) : ids);
  }

  /** Encodes text in which control tokens count, except those broken by `shield`, a string that is then left out. */
  encodeShielded(text: string, shield: string): Int32Array {
    const sections = this.#allAdded.split(text.toWellFormed());
    const ids: number[] = [];
    this.#encodeSections(
      sections.map((section) => (typeof section === 'string' ? section.replaceAll(shield, '') : section)),
      ids,
    );
    return Int32Array.from(ids);
  }

  #withSpecialTokens(ids: readonly number[]): readonly number[] {
    const { prefixIds, suffixIds } = this.#spec;
    const hasPrefix = prefixIds.every((id, i) => ids[i] === id);
    const hasSuffix = ids.length >= suffixIds.length && suffixIds.every((id, i) => ids.at(i - suffixIds.length) === id);
    return [...(hasPrefix ? [] : prefixIds), ...ids, ...(hasSuffix ? [] : suffixIds)];
  }

  #encodeSections(sections: readonly Section[], ids: number[]): void {
    for (const [i, section] of sections.entries()) {
      if (typeof section === 'number') {
        ids.push(section);
        continue;
      }
      if (section === '') continue;
      for (const [j, part] of this.#normalizedAdded.split(this.#normalize(section)).entries()) {
        if (typeof part === 'number') ids.push(part);
        else this.#preTokenize(part, i === 0 && j === 0, (piece) => this.#encodePiece(piece, ids));
      }
    }
  }

  #encodePiece(piece: string, ids: number[]): void {
    if (piece.length > maxCachedUnits) {
      this.#segment(piece, ids);
      return;
    }
    const cached = this.#cache.get(piece);
    if (cached !== undefined) {
      for (const id of cached) ids.push(id);
      return;
    }
    const start = ids.length;
    this.#segment(piece, ids);
    this.#cache.set(piece, ids.slice(start));
  }

  #segment(piece: string, ids: number[]): void {
    if (this.#unigram !== null) {
      this.#unigram.segment(piece, (id, start, end) => {
        if (id !== unknown) ids.push(id);
        else this.#pushUnknown(piece.slice(start, end), ids);
      });
      return;
    }
    const { model, byteLevel } = this.#spec;
    if (model.kind === 'merges' && model.ignoreMerges) {
      const whole = this.#vocabulary.find(byteLevel ? spelled(piece) : piece);
      if (whole !== unknown) {
        ids.push(whole);
        return;
      }
    }
    const count = byteLevel ? this.#byteSymbols(piece) : this.#characterSymbols(piece);
    invariant(this.#merger !== null, 'a model that is not unigram merges');
    const left = this.#merger.merge(this.#symbols, count);
    for (let i = 0; i < left; i++) {
      const id = this.#symbols[i]!; // i < left <= symbols.length
      if (id === unknown) this.#pushUnknown('', ids);
      else ids.push(id);
    }
  }

  /** Fills #symbols with one symbol per UTF-8 byte; returns their number. */
  #byteSymbols(piece: string): number {
    const bytes = utf8.encode(piece);
    this.#reserve(bytes.length);
    for (let i = 0; i < bytes.length; i++) this.#symbols[i] = this.#byteIds[bytes[i]!]!; // bytes < 256
    return bytes.length;
  }

  /** Fills #symbols with one symbol per character, or per byte where a character has no token. */
  #characterSymbols(piece: string): number {
    this.#reserve(utf8.encode(piece).length);
    let count = 0;
    for (const character of piece) {
      const id = this.#vocabulary.find(character);
      if (id !== unknown) {
        this.#symbols[count++] = id;
        continue;
      }
      const bytes = this.#fallbackBytes(character);
      if (bytes === null) this.#symbols[count++] = unknown;
      else for (const byteId of bytes) this.#symbols[count++] = byteId;
    }
    return count;
  }

  /** Ids of a character's byte tokens; null unless every one exists. */
  #fallbackBytes(character: string): number[] | null {
    if (!this.#spec.byteFallback) return null;
    const ids = Array.from(utf8.encode(character), (byte) => this.#byteIds[byte]!); // byte < 256
    return ids.includes(unknown) ? null : ids;
  }

  #pushUnknown(character: string, ids: number[]): void {
    const bytes = character === '' ? null : this.#fallbackBytes(character);
    const { unknownId, fuseUnknown } = this.#spec;
    if (bytes !== null) ids.push(...bytes);
    else if (unknownId !== null && !(fuseUnknown && ids.at(-1) === unknownId)) ids.push(unknownId);
  }

  #reserve(count: number): void {
    if (this.#symbols.length < count) this.#symbols = new Int32Array(count * 2);
  }
}

/** A piece in GPT-2's byte alphabet. */
function spelled(piece: string): string {
  let text = '';
  for (const byte of utf8.encode(piece)) text += charOfByte[byte];
  return text;
}

/** User text never becomes a control token: those take part in no merge, nor in segmentation. */
function reachable(spec: TokenizerSpec): Vocabulary {
  const barred = new Set(spec.unreachable);
  for (const token of spec.added) if (token.special) barred.add(token.id);
  return new Vocabulary(spec.tokens, (id) => !barred.has(id));
}

/** The merges whose parts and result are tokens, as ids: left, right, merged, left, … */
function mergedIds(merges: readonly (string | readonly [string, string])[], vocabulary: Vocabulary): Int32Array {
  const ids = new Int32Array(3 * merges.length);
  let n = 0;
  for (const merge of merges) {
    let left = unknown;
    let right = unknown;
    if (typeof merge === 'string') {
      // The left side is not empty, so a space at the start belongs to it.
      const at = merge.indexOf(' ', 1);
      left = vocabulary.find(merge, 0, at);
      right = vocabulary.find(merge, at + 1);
    } else {
      left = vocabulary.find(merge[0]);
      right = vocabulary.find(merge[1]);
    }
    const merged = vocabulary.findJoined(left, right);
    if (merged === unknown) continue;
    ids[n++] = left;
    ids[n++] = right;
    ids[n++] = merged;
  }
  return ids.subarray(0, n);
}
