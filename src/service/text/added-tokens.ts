// Owns finding added tokens in a text: leftmost, and of those that start together the longest.
import { TextTrie } from './text-trie.ts';
import type { AddedToken } from './tokenizer-spec.ts';

/** A stretch of text, or the id of an added token. */
export type Section = string | number;

const wordCharacter = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]/u;

export class AddedTokens {
  readonly #tokens: readonly AddedToken[];
  readonly #trie = new TextTrie();

  /** `contents[i]` is what to look for where it differs from `tokens[i].content` (normalised text). */
  constructor(tokens: readonly AddedToken[], contents: readonly string[] = tokens.map((token) => token.content)) {
    this.#tokens = tokens;
    for (const [i, content] of contents.entries()) this.#trie.add(content, i);
  }

  /** Cuts `text`; no section is ''. Linear in the text times the longest token. */
  split(text: string): Section[] {
    if (this.#tokens.length === 0) return text === '' ? [] : [text];
    const sections: Section[] = [];
    let done = 0;
    let longest = -1;
    let longestEnd = 0;
    const found = (index: number, end: number) => {
      longest = index;
      longestEnd = end;
    };
    for (let at = 0; at < text.length; ) {
      longest = -1;
      this.#trie.search(text, at, found);
      const best = this.#tokens[longest];
      if (best === undefined || (best.singleWord && !standsAlone(text, at, longestEnd))) {
        at++;
        continue;
      }
      let start = at;
      let end = longestEnd;
      if (best.lstrip) while (start > done && isSpace(text, start - 1)) start--;
      if (best.rstrip) while (end < text.length && isSpace(text, end)) end++;
      if (start > done) sections.push(text.slice(done, start));
      sections.push(best.id);
      done = end;
      at = end;
    }
    if (done < text.length) sections.push(text.slice(done));
    return sections;
  }
}

const isSpace = (text: string, at: number) => /\s/.test(text.charAt(at));

function standsAlone(text: string, start: number, end: number): boolean {
  const before = Array.from(text.slice(Math.max(0, start - 2), start)).at(-1);
  const after = text.codePointAt(end);
  return (
    (before === undefined || !wordCharacter.test(before)) &&
    (after === undefined || !wordCharacter.test(String.fromCodePoint(after)))
  );
}
