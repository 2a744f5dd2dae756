// Owns normalising text before it is cut into pieces, in linear time whatever the text.
import { libraryNormalizer } from './hugging-face.ts';
import type { StageSpec } from './tokenizer-spec.ts';

export type Normalize = (text: string) => string;

/** Throws XllmError model_unsupported for an unknown kind. */
export function compileNormalizer(spec: StageSpec | null): Normalize {
  const normalize = spec === null ? null : libraryNormalizer(spec);
  if (spec === null || normalize === null) return (text) => text;
  return ordersMarks(spec) ? (text) => normalize(withoutLongMarkRuns(text)) : normalize;
}

function ordersMarks(spec: StageSpec): boolean {
  if (spec.type === 'Sequence') return (spec['normalizers'] as readonly StageSpec[]).some(ordersMarks);
  return ['NFC', 'NFD', 'NFKC', 'NFKD', 'Precompiled', 'BertNormalizer'].includes(spec.type);
}

/**
 * Canonical ordering is quadratic in the number of combining marks on one letter: 100,000 marks take V8 5 s. A combining
 * grapheme joiner ends such a run, as the Stream-Safe Text Process does after 30 marks (UAX #15, section 13).
 */
const maxMarks = 256;
const longMarkRun = new RegExp(`(?<!\\p{M})\\p{M}{${maxMarks + 1},}`, 'gu');

function withoutLongMarkRuns(text: string): string {
  return text.replace(longMarkRun, (run) => {
    const marks = Array.from(run);
    let result = '';
    for (let at = 0; at < marks.length; at += maxMarks) {
      result += (at === 0 ? '' : '\u034f') + marks.slice(at, at + maxMarks).join('');
    }
    return result;
  });
}
