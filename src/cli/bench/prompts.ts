// Owns what a load run asks: prompts of random token ids or words, shared prefixes, traces, and prompt files.
import { XllmError } from '../../common/errors.ts';
import { type Random, randomInteger, seededRandom, streamSeed } from './random.ts';
import { TRACE_BLOCK_TOKENS, type TraceEntry } from './traces.ts';

export interface BenchRequest {
  /** Token ids, or text. */
  readonly prompt: readonly number[] | string;
  /** Tokens sent; for text an estimate, which the server's usage report replaces. */
  readonly promptTokens: number;
  readonly maxTokens: number;
}

/** Ids below this are control tokens and single bytes in the usual vocabularies. */
const FIRST_PLAIN_ID = 1000;

/** Frequent words, each one token in the usual byte-pair vocabularies when a space precedes it. */
const WORDS = (
  'time year people way day man thing woman life child world school state family student group country problem hand ' +
  'part place case week company system program question work government number night point home water room mother area ' +
  'money story fact month lot right study book eye job word business issue side kind head house service friend father'
).split(' ');

/** Turns lengths and block ids into prompts, as ids or as text. */
export interface PromptMaker {
  /** `numTokens` of new content. */
  fresh(numTokens: number): BenchRequest['prompt'];
  /** Joins parts that this maker made. */
  join(parts: readonly BenchRequest['prompt'][]): BenchRequest['prompt'];
  /** The first `numTokens` of a prompt that this maker made. */
  truncate(prompt: BenchRequest['prompt'], numTokens: number): BenchRequest['prompt'];
}

/** Random token ids in [1000, vocabSize), as vLLM's random data set sends (there decoded to text). */
export function idPrompts(random: Random, vocabSize: number): PromptMaker {
  if (vocabSize <= FIRST_PLAIN_ID) throw new XllmError('usage', `--vocab-size must exceed ${FIRST_PLAIN_ID}`);
  return {
    fresh: (numTokens) => Array.from({ length: numTokens }, () => randomInteger(random, FIRST_PLAIN_ID, vocabSize - 1)),
    join: (parts) => (parts as number[][]).flat(),
    truncate: (prompt, numTokens) => prompt.slice(0, numTokens),
  };
}

/** Random words, about one token each: for chat, and for servers that take no ids. */
export function textPrompts(random: Random): PromptMaker {
  return {
    fresh: (numTokens) =>
      Array.from({ length: numTokens }, () => WORDS[randomInteger(random, 0, WORDS.length - 1)]!).join(' '),
    join: (parts) => parts.join(' '),
    truncate: (prompt, numTokens) => (prompt as string).split(' ').slice(0, numTokens).join(' '),
  };
}

export interface RandomLoad {
  readonly count: number;
  readonly inputLen: number;
  readonly outputLen: number;
  /** Lengths are uniform in [len·(1−r), len·(1+r)]. */
  readonly rangeRatio: number;
  /** Every prompt starts with the same tokens, this many, in addition to `inputLen`. */
  readonly prefixLen: number;
}

/** `random` draws the lengths; `maker` the content. */
export function randomRequests(load: RandomLoad, maker: PromptMaker, random: Random): BenchRequest[] {
  const drawLength = (mean: number): number =>
    Math.max(
      1,
      randomInteger(random, Math.floor(mean * (1 - load.rangeRatio)), Math.ceil(mean * (1 + load.rangeRatio))),
    );
  const prefix = load.prefixLen > 0 ? [maker.fresh(load.prefixLen)] : [];
  return Array.from({ length: load.count }, () => {
    const inputLen = drawLength(load.inputLen);
    const maxTokens = drawLength(load.outputLen);
    const prompt = maker.join([...prefix, maker.fresh(inputLen)]);
    return { prompt, promptTokens: load.prefixLen + inputLen, maxTokens };
  });
}

/**
 * Prompts with a trace's lengths. Entries that share block ids share tokens, so a prefix cache finds what it would
 * have found in production; `inputFactor` shortens blocks as it shortened the prompts.
 */
export function traceRequests(
  entries: readonly TraceEntry[],
  inputFactor: number,
  makerFor: (seed: number) => PromptMaker,
  seed: number,
): BenchRequest[] {
  const unshared = makerFor(streamSeed(seed, 'unshared'));
  const blockTokens = Math.max(1, Math.round(TRACE_BLOCK_TOKENS * inputFactor));
  const blocks = new Map<number, BenchRequest['prompt']>();
  const blockOf = (id: number): BenchRequest['prompt'] => {
    const block = blocks.get(id) ?? makerFor(streamSeed(seed, `block ${id}`)).fresh(blockTokens);
    blocks.set(id, block);
    return block;
  };
  return entries.map(({ inputLen, outputLen, blockIds }) => {
    // Rounding can leave the blocks a little short of the prompt: the rest is its own.
    const missing = Math.max(0, inputLen - blockIds.length * blockTokens);
    const rest = missing > 0 ? [unshared.fresh(missing)] : [];
    const prompt = unshared.truncate(unshared.join([...blockIds.map(blockOf), ...rest]), inputLen);
    return { prompt, promptTokens: inputLen, maxTokens: outputLen };
  });
}

/**
 * Prompts of a file: one text per line, or JSON lines `{"prompt": text | ids, "max_tokens"?: n}`; repeated in order
 * until there are `count`. Throws XllmError `usage` naming a bad line.
 */
export function fileRequests(text: string, name: string, count: number, outputLen: number): BenchRequest[] {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== '');
  if (lines.length === 0) throw new XllmError('usage', `${name} holds no prompt`);
  const requests = lines.map((line, i) => (line.startsWith('{') ? jsonRequest(line) : textRequest(line)) ?? refuse(i));
  return Array.from({ length: count }, (_, i) => requests[i % requests.length]!);

  function refuse(i: number): never {
    throw new XllmError('usage', `${name}, prompt ${i + 1}: needs "prompt" as text or token ids`);
  }
  function textRequest(prompt: string): BenchRequest {
    return { prompt, promptTokens: prompt.split(/\s+/).length, maxTokens: outputLen };
  }
  function jsonRequest(line: string): BenchRequest | null {
    let row: Record<string, unknown>;
    try {
      row = JSON.parse(line) as Record<string, unknown>;
    } catch {
      return null; // `refuse` names the line
    }
    const { prompt, max_tokens: maxTokens = outputLen } = row;
    if (typeof maxTokens !== 'number' || !Number.isInteger(maxTokens) || maxTokens < 1) return null;
    if (typeof prompt === 'string') return { ...textRequest(prompt), maxTokens };
    if (!Array.isArray(prompt) || !prompt.every((id): id is number => Number.isInteger(id))) return null;
    return { prompt, promptTokens: prompt.length, maxTokens };
  }
}

/** The maker of a run: token ids unless the endpoint wants text. */
export function promptMaker(form: 'ids' | 'text', vocabSize: number): (seed: number) => PromptMaker {
  return (seed) => (form === 'ids' ? idPrompts(seededRandom(seed), vocabSize) : textPrompts(seededRandom(seed)));
}
