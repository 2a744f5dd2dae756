// Owns cutting normalised text into the pieces that a tokenizer's model then treats one by one.
import { XllmError } from '../../common/errors.ts';
import { libraryPattern } from './hugging-face.ts';
import type { StageSpec } from './tokenizer-spec.ts';

/** Pieces of a text, in order, none ''. `isFirst`: the text starts the whole input. */
export type PreTokenize = (text: string, isFirst: boolean) => string[];

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
  if (spec === null) return (text) => (text === '' ? [] : [text]);
  switch (spec.type) {
    case 'Sequence': {
      const stages = (spec['pretokenizers'] as readonly StageSpec[]).map(compilePreTokenizer);
      return (text, isFirst) =>
        stages.reduce((pieces, stage) => pieces.flatMap((piece, i) => stage(piece, isFirst && i === 0)), [text]);
    }
    case 'Split':
      return compileSplit(spec);
    case 'ByteLevel': {
      const split = spec['use_regex'] === false ? compilePreTokenizer(null) : compileSplit(splitStage(gpt2Pattern));
      if (spec['add_prefix_space'] !== true) return split;
      return (text, isFirst) => split(text.startsWith(' ') ? text : ` ${text}`, isFirst);
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
  return (text, isFirst) => {
    let marked = text.replaceAll(' ', mark);
    const prepends = scheme === 'always' || (scheme === 'first' && isFirst);
    if (prepends && !marked.startsWith(mark)) marked = mark + marked;
    return spec['split'] === false ? [marked] : words(marked, isFirst);
  };
}

function compileSplit(spec: StageSpec): PreTokenize {
  const behavior = spec['behavior'];
  if (typeof behavior !== 'string' || !behaviors.includes(behavior)) {
    throw new XllmError('model_unsupported', `the tokenizer splits with an unknown behaviour: ${String(behavior)}`);
  }
  const pattern = compilePattern(spec);
  // Inverted, the gaps are the matches.
  const invert = spec['invert'] === true;
  return (text) => joinPieces(text, cuts(text, pattern, invert), behavior as Behavior);
}

function compilePattern(spec: StageSpec): RegExp {
  const pattern = spec['pattern'] as { readonly String?: string; readonly Regex?: string };
  // Matching `\s+$` tries every start within a run of spaces. Only the first can match: said so, it stays linear.
  if (pattern.Regex === String.raw`\s+$`) return /(?<!\p{White_Space})\p{White_Space}+$/gu;
  return libraryPattern(pattern);
}

/** Start and end of each stretch, and whether it is a match; together they cover the text. */
interface Cut {
  readonly start: number;
  readonly end: number;
  readonly isMatch: boolean;
}

function cuts(text: string, pattern: RegExp, invert: boolean): Cut[] {
  const found: Cut[] = [];
  let done = 0;
  for (const match of text.matchAll(pattern)) {
    const start = match.index;
    const end = start + match[0].length;
    if (start === end) continue;
    if (start > done) found.push({ start: done, end: start, isMatch: invert });
    found.push({ start, end, isMatch: !invert });
    done = end;
  }
  if (done < text.length) found.push({ start: done, end: text.length, isMatch: invert });
  return found;
}

/** Source of the behaviours: `SplitDelimiterBehavior` of Hugging Face's tokenizers. */
function joinPieces(text: string, found: readonly Cut[], behavior: Behavior): string[] {
  const pieces: string[] = [];
  let start = 0;
  for (const [i, cut] of found.entries()) {
    const next = found[i + 1];
    const joinsNext =
      next !== undefined &&
      ((behavior === 'MergedWithPrevious' && !cut.isMatch && next.isMatch) ||
        (behavior === 'MergedWithNext' && cut.isMatch && !next.isMatch) ||
        (behavior === 'Contiguous' && cut.isMatch === next.isMatch));
    if (joinsNext) continue;
    if (!(behavior === 'Removed' && cut.isMatch)) pieces.push(text.slice(start, cut.end));
    start = cut.end;
  }
  return pieces;
}
