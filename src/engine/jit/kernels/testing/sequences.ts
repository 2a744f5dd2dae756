// Owns random sequences for kernel tests: their activations, their pages, and steps that run them in any split.
import type { KvShape } from '../abi.ts';
import type { RowCache } from '../attention/attention.ref.ts';
import { attentionReference } from '../attention/attention.ref.ts';
import { cachedHead } from '../kv-write.ref.ts';
import type { KvRow } from '../step-block.ts';
import type { KvMachine, Layer } from './kv-machine.ts';

export type Random = () => number;

/** Mulberry32: the same numbers for the same seed. */
export function seeded(seed: number): Random {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t ^= t + Math.imul(t ^ (t >>> 7), 61 | t);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** An integer in [from, to]. */
export const integer = (random: Random, from: number, to: number): number =>
  from + Math.floor(random() * (to - from + 1));

export const pick = <T>(random: Random, items: readonly T[]): T => {
  const item = items[Math.floor(random() * items.length)];
  if (item === undefined) throw new RangeError('nothing to pick from');
  return item;
};

export interface Sequence {
  readonly numTokens: number;
  /** [T,H,K], [T,G,K], [T,G,K] */
  readonly queries: Float32Array;
  readonly keys: Float32Array;
  readonly values: Float32Array;
  /** Page of each block. */
  readonly pages: readonly number[];
}

/** Activations of about the size that models have; queries large enough that weights differ. */
export function randomSequence(random: Random, shape: KvShape, numTokens: number, pages: readonly number[]): Sequence {
  const { numHeads, numKvHeads, headDim } = shape;
  const numbers = (count: number, size: number) =>
    Float32Array.from({ length: count }, () => (random() * 2 - 1) * size);
  return {
    numTokens,
    queries: numbers(numTokens * numHeads * headDim, 6),
    keys: numbers(numTokens * numKvHeads * headDim, 2),
    values: numbers(numTokens * numKvHeads * headDim, 2),
    pages,
  };
}

/** One row of a step: the next tokens of a sequence. */
export interface Part {
  readonly sequence: Sequence;
  readonly firstPosition: number;
  readonly numTokens: number;
}

export interface RunOptions {
  readonly numThreads?: number;
  /** Floats between heads and between tokens of the inputs. */
  readonly gap?: number;
  /** Segments start with the sequence instead of with the window. */
  readonly allSegments?: boolean;
  /** Only keys and values are wanted: the result is empty. */
  readonly onlyWrites?: boolean;
}

/** Writes keys and values of the parts and attends; returns [T,H*K]. Threads take turns. */
export function runStep(
  machine: KvMachine,
  layer: Layer,
  parts: readonly Part[],
  options: RunOptions = {},
): Float32Array {
  const { numThreads = 1, onlyWrites = false } = options;
  const result = prepareStep(machine, layer, parts, options);
  for (let i = numThreads - 1; i >= 0; i--) machine.kvWrite(machine.kvWriteOp, i, numThreads);
  if (onlyWrites) return new Float32Array();
  for (let i = numThreads - 1; i >= 0; i--) machine.attention(machine.attentionOp, i, numThreads);
  return result();
}

/** The same with both kernels on several system threads at once. */
export async function runStepInParallel(
  machine: KvMachine,
  layer: Layer,
  parts: readonly Part[],
  numThreads: number,
): Promise<Float32Array> {
  const result = prepareStep(machine, layer, parts, {});
  const all = (kernel: KvMachine['attention'], op: number) =>
    Promise.all(
      Array.from(
        { length: numThreads },
        (_, i) =>
          new Promise<void>((resolve, reject) =>
            kernel.async?.(op, i, numThreads, (error: unknown) => (error ? reject(error as Error) : resolve())),
          ),
      ),
    );
  await all(machine.kvWrite, machine.kvWriteOp);
  await all(machine.attention, machine.attentionOp);
  return result();
}

/** Makes the parts the machine's step; returns what reads its result [T,H*K]. */
function prepareStep(
  machine: KvMachine,
  layer: Layer,
  parts: readonly Part[],
  options: RunOptions,
): () => Float32Array {
  const { gap = 0, allSegments = false } = options;
  const { shape } = machine;
  const { numHeads, numKvHeads, headDim, blockTokens } = shape;
  const numTokens = parts.reduce((sum, part) => sum + part.numTokens, 0);
  const queries = machine.matrix(numTokens, numHeads, gap);
  const keys = machine.matrix(numTokens, numKvHeads, gap);
  const values = machine.matrix(numTokens, numKvHeads, gap);
  const inputs = [
    { matrix: queries, heads: numHeads, of: (s: Sequence) => s.queries },
    { matrix: keys, heads: numKvHeads, of: (s: Sequence) => s.keys },
    { matrix: values, heads: numKvHeads, of: (s: Sequence) => s.values },
  ] as const;
  const rows: KvRow[] = [];
  let token = 0;
  for (const { sequence, firstPosition, numTokens: count } of parts) {
    for (const { matrix, heads, of } of inputs) {
      for (let t = 0; t < count; t++) {
        for (let h = 0; h < heads; h++) {
          const from = ((firstPosition + t) * heads + h) * headDim;
          matrix.values.set(of(sequence).subarray(from, from + headDim), matrix.index(token + t, h));
        }
      }
    }
    const firstRead = layer.window === null || allSegments ? 0 : Math.max(0, firstPosition - layer.window + 1);
    const segments = machine.segments(sequence.pages, Math.floor(firstRead / blockTokens), firstPosition + count);
    rows.push({ firstPosition, numTokens: count, segments });
    token += count;
  }
  // Heads of an output are adjacent, tokens may lie apart.
  const outRow = numHeads * headDim + gap;
  const memory = machine.allocate(numTokens * outRow * 4);
  const all = new Float32Array(memory.buffer).fill(Number.NaN);
  const out = { address: memory.address, rowBytes: 4 * outRow };
  machine.step(rows, { queries, keys, values, out });
  return () => {
    const dense = new Float32Array(numTokens * numHeads * headDim);
    for (let t = 0; t < numTokens; t++) {
      dense.set(all.subarray(t * outRow, t * outRow + numHeads * headDim), t * numHeads * headDim);
    }
    return dense;
  };
}

/** Cuts [0, numTokens) at random. */
export function randomSplit(random: Random, numTokens: number, most: number): number[] {
  const parts: number[] = [];
  for (let left = numTokens; left > 0; left -= parts.at(-1) ?? 0) parts.push(Math.min(left, integer(random, 1, most)));
  return parts;
}

/** Runs one sequence in steps of these lengths; returns [T,H*K]. */
export function runSplit(
  machine: KvMachine,
  layer: Layer,
  sequence: Sequence,
  split: readonly number[],
  options: RunOptions = {},
): Float32Array {
  const rowFloats = machine.shape.numHeads * machine.shape.headDim;
  const out = new Float32Array(sequence.numTokens * rowFloats);
  let done = 0;
  for (const numTokens of split) {
    const result = runStep(machine, layer, [{ sequence, firstPosition: done, numTokens }], options);
    out.set(result.subarray(0, numTokens * rowFloats), done * rowFloats);
    done += numTokens;
  }
  return out;
}

/** What the cache holds of a sequence. */
function cacheOf(shape: KvShape, { keys, values }: Sequence): RowCache {
  const { numKvHeads, headDim, element } = shape;
  const head = (all: Float32Array, position: number, kvHead: number) => {
    const at = (position * numKvHeads + kvHead) * headDim;
    return cachedHead(all.subarray(at, at + headDim), element);
  };
  return {
    key: (position, kvHead) => head(keys, position, kvHead),
    value: (position, kvHead) => head(values, position, kvHead),
  };
}

/** What the token at `position` should get, [H*K]. */
export function expected(shape: KvShape, layer: Layer, sequence: Sequence, position: number): Float32Array {
  const rowFloats = shape.numHeads * shape.headDim;
  return attentionReference({
    shape,
    ...layer,
    queries: sequence.queries.subarray(position * rowFloats, (position + 1) * rowFloats),
    rows: [{ firstPosition: position, numTokens: 1, cache: cacheOf(shape, sequence) }],
  });
}
