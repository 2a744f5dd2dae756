// Owns keeping user text from becoming control tokens: marks that break them, chosen so that no text holds them already.
import { XllmError } from '../../common/errors.ts';
import { TextTrie } from './text-trie.ts';

/** Private use area: one UTF-16 unit each, so no slicing in a template can cut a mark in two. */
const firstMark = 0xe000;
const lastMark = 0xf8ff;

/** Marks that neither `value` nor `source` holds. Throws XllmError invalid_request where all are used. */
export function freeMarks(value: unknown, source: string, count: number): string[] {
  const used = new Set<number>();
  const scan = (text: string) => {
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      if (unit >= firstMark && unit <= lastMark) used.add(unit);
    }
    return text;
  };
  scan(source);
  mapStrings(value, scan);
  const marks: string[] = [];
  for (let unit = firstMark; unit <= lastMark && marks.length < count; unit++) {
    if (!used.has(unit)) marks.push(String.fromCharCode(unit));
  }
  if (marks.length < count) {
    throw new XllmError('invalid_request', 'the messages use every private-use character', { param: 'messages' });
  }
  return marks;
}

export class ControlShield {
  readonly #forward = new TextTrie();
  readonly #backward = new TextTrie();
  #maxUnits = 0;

  /** `tokens`: what control tokens look like in text. */
  constructor(tokens: readonly string[]) {
    for (const [i, token] of tokens.entries()) {
      this.#forward.add(token, i);
      this.#backward.add(reversed(token), i);
      this.#maxUnits = Math.max(this.#maxUnits, token.length);
    }
  }

  /** `value` with marks in all its strings, keys of objects included. */
  protect(value: unknown, mark: string): unknown {
    return mapStrings(value, (text) => this.#protectText(text, mark));
  }

  /**
   * A mark goes after the first unit of every control token, and of what may become one together with the text that
   * follows in the template; and in front of what may be the end of one. A role such as `user` in '<|user|>' is neither,
   * so templates may build control tokens around it.
   */
  #protectText(text: string, mark: string): string {
    let result = this.#mayEndToken(text) ? mark : '';
    let done = 0;
    for (let at = 0; at < text.length; at++) {
      if (!this.#forward.reaches(text, at)) continue;
      result += text.slice(done, at + 1) + mark;
      done = at + 1;
    }
    return result + text.slice(done);
  }

  #mayEndToken(text: string): boolean {
    for (let length = 1; length < this.#maxUnits && length <= text.length; length++) {
      if (this.#backward.hasPrefix(reversed(text.slice(0, length)))) return true;
    }
    return false;
  }
}

const reversed = (text: string) => text.split('').reverse().join('');

/** Copies plain data, its strings and keys mapped. */
function mapStrings(value: unknown, map: (text: string) => string): unknown {
  if (typeof value === 'string') return map(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, map));
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [map(key), mapStrings(item, map)]));
  }
  return value;
}
