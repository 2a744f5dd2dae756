// Owns cutting normalised text into the pieces that a tokenizer's model then treats one by one.
import { XllmError } from '../../common/errors.ts';
import { libraryPattern } from './hugging-face.ts';
import type { StageSpec } from './tokenizer-spec.ts';

/**
 * Gives the pieces of a text to `emit`, in order, none ''; there may be as many as characters, so they are never listed.
 * `isFirst`: the text starts the whole input.
 */
export type PreTokenize = (text: string, isFirst: boolean, emit: (piece: string) => void) => void;

/** GPT-2's split, which a ByteLevel pre-tokenizer implies. Source: OpenAI's gpt-2 encoder.py. */
export const gpt2Pattern = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

const asciiPunctuation = String.raw`!-/:-@\[-\x60{-~`;

type Behavior = 'Isolated' | 'Removed' | 'MergedWithPrevious' | 'MergedWithNext' | 'Contiguous';
const behaviors: readonly string[] = ['Isolated', 'Removed', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'];

/** A split at a regular expression in Oniguruma's syntax, as tokenizer.json holds them. */
export function splitStage(regex: string, behavior: Behavior = 'Isolated'): StageSpec {
  return { type: 'Split', pattern: { Regex: regex }, behavior, invert: false };
}

/** Throws XllmError model_unsupported for a kind, pattern or behaviour that is not known. */
export function compilePreTokenizer(spec: StageSpec | null): PreTokenize {
  if (spec === null) return whole;
  switch (spec.type) {
    case 'Sequence': {
      const stages = spec['pretokenizers'] as readonly StageSpec[];
      return stages.map(compilePreTokenizer).reduceRight((after, stage) => {
        return (text, isFirst, emit) => {
          let isFirstPiece = isFirst;
          stage(text, isFirst, (piece) => {
            after(piece, isFirstPiece, emit);
            isFirstPiece = false;
          });
        };
      }, whole);
    }
    case 'Split':
      return compileSplit(spec);
    case 'ByteLevel': {
      const split = spec['use_regex'] === false ? whole : compileSplit(splitStage(gpt2Pattern));
      if (spec['add_prefix_space'] !== true) return split;
      return (text, isFirst, emit) => split(text.startsWith(' ') ? text : ` ${text}`, isFirst, emit);
    }
    case 'Digits':
      return compileSplit(splitStage(spec['individual_digits'] === true ? String.raw`\p{N}` : String.raw`\p{N}+`));
    case 'Punctuation': {
      const behavior = spec['behavior'] === undefined ? {} : { behavior: spec['behavior'] };
      return compileSplit({ ...splitStage(String.raw`[\p{P}${asciiPunctuation}]`), ...behavior });
    }
    case 'WhitespaceSplit':
      return compileSplit(splitStage(String.raw`\s+`, 'Removed'));
    case 'Metaspace':
      return compileMetaspace(spec);
    default:
      throw new XllmError('model_unsupported', `the tokenizer's pre-tokenizer ${JSON.stringify(spec.type)} is unknown`);
  }
}

const whole: PreTokenize = (text, _isFirst, emit) => {
  if (text !== '') emit(text);
};

/** SentencePiece's words: U+2581 for each space, one more in front, cut before each. */
function compileMetaspace(spec: StageSpec): PreTokenize {
  const mark = typeof spec['replacement'] === 'string' ? spec['replacement'] : '\u2581';
  const scheme = spec['prepend_scheme'] ?? (spec['add_prefix_space'] === false ? 'never' : 'always');
  const words = compileSplit({
    type: 'Split',
    pattern: { String: mark },
    behavior: 'MergedWithNext',
    invert: false,
  });
  return (text, isFirst, emit) => {
    let marked = text.replaceAll(' ', mark);
    const prepends = scheme === 'always' || (scheme === 'first' && isFirst);
    if (prepends && !marked.startsWith(mark)) marked = mark + marked;
    (spec['split'] === false ? whole : words)(marked, isFirst, emit);
  };
}

function compileSplit(spec: StageSpec): PreTokenize {
  const behavior = spec['behavior'];
  if (typeof behavior !== 'string' || !behaviors.includes(behavior)) {
    throw new XllmError('model_unsupported', `the tokenizer splits with an unknown behaviour: ${String(behavior)}`);
  }
  const pattern = compilePattern(spec);
  const here = new RegExp(pattern, `${pattern.flags}y`);
  // Inverted, the gaps are the matches.
  const invert = spec['invert'] === true;
  return (text, _isFirst, emit) => {
    // Stretches of text, match and gap in turn, joined as the behaviour says. The last one waits for the next.
    let start = 0;
    let end = 0;
    let wasMatch = false;
    const add = (next: number, isGap: boolean) => {
      const isMatch = isGap === invert;
      if (end > 0 && !joins(behavior, wasMatch, isMatch)) {
        if (!(behavior === 'Removed' && wasMatch)) emit(text.slice(start, end));
        start = end;
      }
      end = next;
      wasMatch = isMatch;
    };
    while (end < text.length) {
      // Most patterns match wherever the last match ended; asking that first spares finding out where a match starts.
      here.lastIndex = end;
      if (here.test(text) && here.lastIndex > end) {
        add(here.lastIndex, false);
        continue;
      }
      const match = nextMatch(text, pattern, end);
      add(match === null ? text.length : match.index, true);
      if (match !== null) add(match.index + match[0].length, false);
    }
    if (end > start && !(behavior === 'Removed' && wasMatch)) emit(text.slice(start, end));
  };
}

/** The first match that is not empty and starts after the character at `from`. */
function nextMatch(text: string, pattern: RegExp, from: number): RegExpExecArray | null {
  for (let at = from; at < text.length; ) {
    at += (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1;
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match === null || match[0] !== '') return match;
    at = match.index;
  }
  return null;
}

/** Source: `SplitDelimiterBehavior` of Hugging Face's tokenizers. */
function joins(behavior: string, isMatch: boolean, nextIsMatch: boolean): boolean {
  switch (behavior) {
    case 'MergedWithPrevious':
      return !isMatch && nextIsMatch;
    case 'MergedWithNext':
      return isMatch && !nextIsMatch;
    case 'Contiguous':
      return isMatch === nextIsMatch;
    default:
      return false;
  }
}

function compilePattern(spec: StageSpec): RegExp {
  const pattern = spec['pattern'] as { readonly String?: string; readonly Regex?: string };
  // Matching `\s+$` tries every start within a run of spaces. Only the first can match: said so, it stays linear.
  if (pattern.Regex === String.raw`\s+$`) return /(?<!\p{White_Space})\p{White_Space}+$/gu;
  return libraryPattern(pattern);
}
