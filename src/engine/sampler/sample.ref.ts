// Owns the meaning of sampling: raw logits and a row's parameters to a token, in plain loops. The kernels must agree bit for bit.
//
// Order, as in vLLM: edits (bias, penalties, forbidden ids) → greedy if the temperature is 0 → temperature → min-p →
// top-k → top-p over what is left → arg-max of scaled logit + Gumbel noise. Differences from vLLM:
//  - A kept set is "scaled logit ≥ threshold": ties at a border are all kept (vLLM's top-p splits them by sort order).
//  - Equal scores, and equal logits under greedy, go to the lowest id.
//  - A bias is added after the repetition penalty's scale, so that it keeps its size (vLLM scales it too).
// NaN counts as -Infinity and is flagged; +Infinity as the largest float. Without any candidate the token is 0, flagged.
// Legend: V logits of a row, N ids that have a token (N ≤ V); ids from N on are never chosen, and edits of them have no effect.
import { resultFlag } from '../jit/kernels/sampler-abi.ts';
import { blockSize, maxFloat } from '../jit/kernels/sampler-math.ts';
import type { LogitEdits, SampleRow } from '../scheduler/sampling-params.ts';
import { exp32, foldLanes, gumbel32, hash32, keyOf, ln32, noiseLimit, sane, valueOfKey } from './math.ref.ts';
import { type RowConstants, rowConstants } from './row-constants.ts';

const f32 = Math.fround;

export interface Choice {
  readonly tokenId: number;
  /** Bits of `resultFlag`. */
  readonly flags: number;
}

/** What the raw distribution says of one token. */
export interface RawStats {
  readonly logprob: number;
  readonly logSumExp: number;
  /** 1 + the number of strictly greater logits. */
  readonly rank: number;
}

/** logits [V] (left alone), `numIds` N. */
export function sampleToken(logits: Float32Array, numIds: number, row: SampleRow): Choice {
  const constants = rowConstants(row, numIds);
  const flags = hasNaN(logits, numIds) ? resultFlag.sawNaN : 0;
  const scaled = scaledLogits(logits, numIds, constants.inverseTemperature, row.edits);
  const best = argMax(scaled);
  if (scaled[best] === -Infinity) return { tokenId: 0, flags: flags | resultFlag.noCandidate };
  if (constants.isGreedy) return { tokenId: best, flags };
  const threshold = keepThreshold(scaled, scaled[best]!, constants);
  return { tokenId: noisyArgMax(scaled, threshold, constants.key0, constants.key1), flags };
}

function hasNaN(logits: Float32Array, numIds: number): boolean {
  for (let i = 0; i < numIds; i++) {
    if (logits[i] !== logits[i]) return true;
  }
  return false;
}

/** [N] processed logits over the temperature, without NaN or +Infinity. */
function scaledLogits(
  logits: Float32Array,
  numIds: number,
  inverseTemperature: number,
  edits: LogitEdits | null,
): Float32Array {
  const scaled = new Float32Array(numIds);
  for (let i = 0; i < numIds; i++) scaled[i] = sane(f32(logits[i]! * inverseTemperature));
  if (!edits) return scaled;
  const { tokenIds, scalePositive, scaleNegative, add } = edits;
  for (let e = 0; e < tokenIds.length; e++) {
    const id = tokenIds[e]!;
    const raw = logits[id]!;
    const edited = f32(f32(raw * (raw > 0 ? scalePositive[e]! : scaleNegative[e]!)) + add[e]!);
    scaled[id] = sane(f32(edited * inverseTemperature));
  }
  return scaled;
}

/** Lowest index of the largest value. */
function argMax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) {
    if (values[i]! > values[best]!) best = i;
  }
  return best;
}

/** Scaled logits below this are out of the draw. */
function keepThreshold(scaled: Float32Array, max: number, constants: RowConstants): number {
  const { topK, topP, minPOffset } = constants;
  let threshold = Math.max(-maxFloat, f32(max + minPOffset));
  if (topK > 0) threshold = highest(scaled, threshold, max, (ids) => ids.length >= topK);
  if (topP < 1) {
    const weights = scaled.map((value) => (value >= threshold ? exp32(f32(value - max)) : 0));
    const target = f32(topP * mass(weights, idsAtLeast(scaled, null, threshold)));
    threshold = highest(scaled, threshold, max, (ids) => mass(weights, ids) >= target);
  }
  return threshold;
}

/**
 * The largest float t in [low, high] such that `holds` of the ids with values ≥ t, or `low` if there is none. What holds for
 * some ids must hold for more of them.
 */
function highest(values: Float32Array, low: number, high: number, holds: (ids: Int32Array) => boolean): number {
  let lowKey = keyOf(low);
  let highKey = keyOf(high) + 1;
  let ids = idsAtLeast(values, null, low);
  while (highKey - lowKey > 1) {
    const middle = Math.floor((lowKey + highKey) / 2);
    const above = idsAtLeast(values, ids, valueOfKey(middle));
    if (holds(above)) {
      lowKey = middle;
      ids = above;
    } else highKey = middle;
  }
  return valueOfKey(lowKey);
}

/** Those of `ids` (null: all), ascending, with a value ≥ t. */
function idsAtLeast(values: Float32Array, ids: Int32Array | null, t: number): Int32Array {
  const numIds = ids ? ids.length : values.length;
  const kept = new Int32Array(numIds);
  let n = 0;
  for (let i = 0; i < numIds; i++) {
    const id = ids ? ids[i]! : i;
    if (values[id]! >= t) kept[n++] = id;
  }
  return kept.subarray(0, n);
}

/** Sum of weights over 16 lanes (id mod 16), ids ascending, then folded. */
function mass(weights: Float32Array, ids: Int32Array): number {
  const lanes = new Float32Array(16);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    lanes[id & 15] = lanes[id & 15]! + weights[id]!;
  }
  return foldLanes(lanes);
}

function noisyArgMax(scaled: Float32Array, threshold: number, key0: number, key1: number): number {
  let best = -Infinity;
  let bestId = 0;
  for (let id = 0; id < scaled.length; id++) {
    const value = scaled[id]!;
    if (value < threshold) continue;
    const hash = hash32(key0, key1, id);
    // Rounding keeps order, so what stays below the best with the most noise that its hash allows needs none computed.
    if (f32(value + noiseLimit(hash)) < best) continue;
    const score = f32(value + gumbel32(hash));
    if (score > best) {
      best = score;
      bestId = id;
    }
  }
  return bestId;
}

/** logits [V] as the model gave them, before edits and temperature. */
export function rawStats(logits: Float32Array, numIds: number, tokenId: number): RawStats {
  let max = -Infinity;
  for (let i = 0; i < numIds; i++) max = Math.max(max, sane(logits[i]!));
  const logSumExp = max === -Infinity ? max : f32(max + ln32(sumExp(logits, numIds, max)));
  const own = sane(logits[tokenId]!);
  let rank = 1;
  for (let i = 0; i < numIds; i++) {
    if (sane(logits[i]!) > own) rank++;
  }
  return { logprob: own === -Infinity ? own : f32(own - logSumExp), logSumExp, rank };
}

/** Σ exp(logit - max): each block over 16 lanes, the blocks added lane by lane, then folded. */
function sumExp(logits: Float32Array, numIds: number, max: number): number {
  const total = new Float32Array(16);
  const block = new Float32Array(16);
  for (let start = 0; start < numIds; start += blockSize) {
    block.fill(0);
    const end = Math.min(start + blockSize, numIds);
    for (let i = start; i < end; i++) block[i & 15] = block[i & 15]! + exp32(f32(sane(logits[i]!) - max));
    for (let lane = 0; lane < 16; lane++) total[lane] = total[lane]! + block[lane]!;
  }
  return foldLanes(total);
}
