// Owns the best alternatives of an output: found through the maxima of blocks of logits, so that most are never looked at.
import { blockSize } from '../jit/kernels/sampler-math.ts';
import type { TopLogprobs } from '../scheduler/plan.ts';
import { sane } from './math.ref.ts';

export interface RawRow {
  /** [V] raw logits; only the first `numIds` count. */
  readonly logits: Float32Array;
  readonly numIds: number;
  /** [ceil(numIds / 512)] maxima, NaN counting as -Infinity and +Infinity as the largest float. */
  readonly blockMaxima: Float32Array;
  readonly logSumExp: number;
}

/** The `k` best tokens (fewer if there are fewer ids), ties by lowest id. `rank` is that of the chosen or target token. */
export function topLogprobs({ logits, numIds, blockMaxima, logSumExp }: RawRow, k: number, rank: number): TopLogprobs {
  const size = Math.min(k, numIds);
  const ids = new Int32Array(size);
  const values = new Float32Array(size).fill(-Infinity);
  // k blocks hold a logit of at least this: nothing below it is among the k best.
  const floor = size === 0 ? Infinity : (blockMaxima.toSorted().at(-size) ?? -Infinity);
  let found = 0;
  for (const id of idsFrom(logits, numIds, blockMaxima, floor)) {
    const value = sane(logits[id]!);
    if (value < floor || (found === size && value <= values[size - 1]!)) continue;
    // Ids ascend, so an equal value goes behind.
    let place = Math.min(found, size - 1);
    for (; place > 0 && value > values[place - 1]!; place--) {
      values[place] = values[place - 1]!;
      ids[place] = ids[place - 1]!;
    }
    values[place] = value;
    ids[place] = id;
    if (found < size) found++;
  }
  const logprobs = values.map((value) => (value === -Infinity ? value : value - logSumExp));
  return { ids, logprobs, rank };
}

/** Ids, ascending, whose logits are not below the floor (NaN is not); only blocks that reach it are looked at. */
function idsFrom(logits: Float32Array, numIds: number, blockMaxima: Float32Array, floor: number): number[] {
  const ids: number[] = [];
  for (let block = 0; block < blockMaxima.length; block++) {
    if (blockMaxima[block]! < floor) continue;
    const end = Math.min((block + 1) * blockSize, numIds);
    for (let id = block * blockSize; id < end; id++) if (!(logits[id]! < floor)) ids.push(id);
  }
  return ids;
}

/** Maxima of blocks of 512, as `RawRow` wants them. */
export function blockMaximaOf(logits: Float32Array, numIds: number): Float32Array {
  const maxima = new Float32Array(Math.ceil(numIds / blockSize)).fill(-Infinity);
  for (let id = 0; id < numIds; id++) {
    const value = logits[id]!;
    const block = Math.floor(id / blockSize);
    if (value > maxima[block]!) maxima[block] = sane(value);
  }
  return maxima;
}
