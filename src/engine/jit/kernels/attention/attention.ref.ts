// Owns what paged attention computes, in plain loops: the specification of the emitted kernel, bit for bit.
// Legend: T tokens, H heads, G kv heads, K head dim.
import { type KvShape } from '../abi.ts';
import { CHUNK_POSITIONS } from '../tiles.ts';
import { exp2 } from '../exp2.ts';
import { fma32, foldSum } from '../float.ref.ts';
import type { CachedHead } from '../kv-write.ref.ts';

/** Cached keys and values of one row. */
export interface RowCache {
  /** [K] */
  key(position: number, kvHead: number): CachedHead;
  value(position: number, kvHead: number): CachedHead;
}

export interface AttentionInput {
  readonly shape: KvShape;
  readonly scale: number;
  readonly softCap: number | null;
  /** Positions that a token sees, itself included; null: all before it. */
  readonly window: number | null;
  /** [H] logits that take weight and give no value. */
  readonly sinks: Float32Array | null;
  /** [T,H,K] */
  readonly queries: Float32Array;
  readonly rows: readonly { readonly firstPosition: number; readonly numTokens: number; readonly cache: RowCache }[];
}

const f32 = Math.fround;

/** → [T,H*K]; tokens behind the rows' are 0. */
export function attentionReference(input: AttentionInput): Float32Array {
  const { shape, queries, rows } = input;
  const { numHeads, headDim } = shape;
  const out = new Float32Array(queries.length);
  let token = 0;
  for (const row of rows) {
    for (let i = 0; i < row.numTokens; i++, token++) {
      for (let head = 0; head < numHeads; head++) {
        const at = (token * numHeads + head) * headDim;
        const result = attendOne(input, row.cache, row.firstPosition + i, head, queries.subarray(at, at + headDim));
        out.set(result, at);
      }
    }
  }
  return out;
}

/** One query. Maximum, sum and accumulator start anew in every chunk of 512 absolute positions and merge left to right. */
function attendOne(
  input: AttentionInput,
  cache: RowCache,
  position: number,
  head: number,
  query: Float32Array,
): Float32Array {
  const { shape, window } = input;
  const { numHeads, numKvHeads, headDim } = shape;
  const kvHead = Math.floor(head / (numHeads / numKvHeads));
  const first = window === null ? 0 : Math.max(0, position - window + 1);
  const scaled = query.map((value) => value * queryScale(input));
  const sink = input.sinks?.[head];
  let maximum = sink === undefined ? f32(-1e30) : f32(sink * f32(Math.LOG2E));
  let total = sink === undefined ? 0 : 1;
  const sums = new Float32Array(headDim);
  for (let chunk = first - (first % CHUNK_POSITIONS); chunk <= position; chunk += CHUNK_POSITIONS) {
    const low = Math.max(chunk, first);
    const high = Math.min(chunk + CHUNK_POSITIONS, position + 1);
    const scores = new Float32Array(high - low);
    for (let p = low; p < high; p++) scores[p - low] = score(input, scaled, cache.key(p, kvHead));
    const chunkMaximum = scores.reduce((most, value) => Math.max(most, value), f32(-1e30));
    const lanes = new Float32Array(16);
    const chunkSums = new Float32Array(headDim);
    for (let p = low; p < high; p++) {
      const weight = exp2(f32(scores[p - low]! - chunkMaximum));
      lanes[p % 16] = lanes[p % 16]! + weight;
      const { elements, scale } = cache.value(p, kvHead);
      const scaled = f32(weight * scale);
      for (let d = 0; d < headDim; d++) chunkSums[d] = fma32(scaled, elements[d]!, chunkSums[d]!);
    }
    const merged = Math.max(maximum, chunkMaximum);
    const keep = exp2(f32(maximum - merged));
    const add = exp2(f32(chunkMaximum - merged));
    maximum = merged;
    total = fma32(foldSum(lanes), add, f32(total * keep));
    for (let d = 0; d < headDim; d++) sums[d] = fma32(chunkSums[d]!, add, f32(sums[d]! * keep));
  }
  const inverse = f32(1 / total);
  return sums.map((value) => value * inverse);
}

/** As `writeNodeBlock` stores it. */
const queryScale = ({ scale, softCap }: AttentionInput): number =>
  f32(softCap === null ? scale * Math.LOG2E : scale / softCap);

/** In units of log2: one chain of multiply-adds over the head dim, then the key's scale. */
function score({ softCap }: AttentionInput, query: Float32Array, { elements, scale }: CachedHead): number {
  let sum = 0;
  for (let d = 0; d < query.length; d++) sum = fma32(elements[d]!, query[d]!, sum);
  sum = f32(sum * scale);
  if (softCap === null) return sum;
  const power = exp2(Math.min(f32(sum * f32(2 * Math.LOG2E)), 30));
  return f32(f32(1 - f32(2 / f32(power + 1))) * f32(softCap * Math.LOG2E));
}
