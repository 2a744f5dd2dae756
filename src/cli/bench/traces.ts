// Owns request traces: reading published ones, and fitting them to a small model.
import { XllmError } from '../../common/errors.ts';

/** One request of a trace; `atMs` counts from its first request. */
export interface TraceEntry {
  readonly atMs: number;
  readonly inputLen: number;
  readonly outputLen: number;
  /** Content of the prompt, one id per 512 tokens: equal ids are equal text. Empty where the trace does not say. */
  readonly blockIds: readonly number[];
}

/** Tokens per block id in Mooncake's traces. */
export const TRACE_BLOCK_TOKENS = 512;

const AZURE_HEADER = 'TIMESTAMP,ContextTokens,GeneratedTokens';

/**
 * Reads a trace, by content: Azure LLM inference CSV (header, UTC times with 7-digit fractions, CR LF or LF, last
 * newline optional) or Mooncake JSONL (`timestamp` in ms). `name` is for messages.
 * Throws XllmError `usage` with the line that is not understood. Entries come sorted by time.
 */
export function parseTrace(text: string, name: string): TraceEntry[] {
  const lines = text.split(/\r?\n/);
  const isAzure = lines[0] === AZURE_HEADER;
  if (!isAzure && !lines[0]?.startsWith('{'))
    throw new XllmError('usage', `${name} is neither an Azure CSV (header ${AZURE_HEADER}) nor a Mooncake JSONL trace`);
  const parseLine = isAzure ? parseAzureLine : parseMooncakeLine;
  const entries: TraceEntry[] = [];
  for (const [i, line] of lines.entries()) {
    if (line === '' || (isAzure && i === 0)) continue;
    const entry = parseLine(line);
    if (entry === null) throw new XllmError('usage', `${name}, line ${i + 1}: not a trace row: ${line.slice(0, 80)}`);
    entries.push(entry);
  }
  entries.sort((a, b) => a.atMs - b.atMs);
  const originMs = entries[0]?.atMs ?? 0;
  return entries.map((entry) => ({ ...entry, atMs: entry.atMs - originMs }));
}

function parseAzureLine(line: string): TraceEntry | null {
  const match = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(\.\d+)?,(\d+),(\d+)$/.exec(line);
  if (match === null) return null;
  const [, date, time, fraction, input, output] = match;
  // Date keeps whole milliseconds only, so the fraction is added apart.
  const atMs = Date.parse(`${date}T${time}Z`) + (fraction === undefined ? 0 : Number(fraction) * 1000);
  return Number.isNaN(atMs) ? null : { atMs, inputLen: Number(input), outputLen: Number(output), blockIds: [] };
}

function parseMooncakeLine(line: string): TraceEntry | null {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch {
    return null; // the caller names the line
  }
  if (typeof row !== 'object' || row === null) return null;
  const { timestamp, input_length, output_length, hash_ids } = row as Record<string, unknown>;
  const isRow =
    Number.isFinite(timestamp) &&
    Number.isInteger(input_length) &&
    Number.isInteger(output_length) &&
    Array.isArray(hash_ids) &&
    hash_ids.every(Number.isInteger);
  if (!isRow) return null;
  return {
    atMs: timestamp as number,
    inputLen: input_length as number,
    outputLen: output_length as number,
    blockIds: hash_ids as number[],
  };
}

/** How a trace was changed to fit; 1 means untouched. */
export interface TraceFit {
  readonly inputFactor: number;
  readonly outputFactor: number;
}

export interface FitOptions {
  /** The longest prompt of the part in use becomes this long, the others in proportion. */
  readonly maxInputLen?: number | undefined;
  readonly maxOutputLen?: number | undefined;
  /** Replays this many times as fast. */
  readonly speed: number;
}

/** Scales lengths down (never up) with one factor each, so that their ratios and the shape of arrivals stay. */
export function fitTrace(
  entries: readonly TraceEntry[],
  options: FitOptions,
): { readonly entries: TraceEntry[]; readonly fit: TraceFit } {
  const inputFactor = factorFor(
    entries.map((entry) => entry.inputLen),
    options.maxInputLen,
  );
  const outputFactor = factorFor(
    entries.map((entry) => entry.outputLen),
    options.maxOutputLen,
  );
  const fitted = entries.map((entry) => ({
    ...entry,
    atMs: entry.atMs / options.speed,
    inputLen: Math.max(1, Math.round(entry.inputLen * inputFactor)),
    outputLen: Math.max(1, Math.round(entry.outputLen * outputFactor)),
  }));
  return { entries: fitted, fit: { inputFactor, outputFactor } };
}

function factorFor(lengths: readonly number[], limit: number | undefined): number {
  const longest = lengths.reduce((most, length) => Math.max(most, length), 1);
  return limit === undefined ? 1 : Math.min(1, limit / longest);
}
