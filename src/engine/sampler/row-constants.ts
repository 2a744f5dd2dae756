// Owns the derivation of one row's numbers from its parameters: computed once here, used by twin and kernels alike.
import type { SampleRow } from '../scheduler/sampling-params.ts';

/** Below this a temperature means greedy, as in vLLM. */
const minTemperature = 1e-5;
const smallestNormal = 2 ** -126;

export interface RowConstants {
  readonly isGreedy: boolean;
  /** 1 when greedy. A float32, as all fractions here. */
  readonly inverseTemperature: number;
  /** ln(minP): how far below the maximum a scaled logit may lie. -Infinity: off. */
  readonly minPOffset: number;
  /** 0: off. */
  readonly topK: number;
  /** 1: off. Never 0, so that the maximum is always kept. */
  readonly topP: number;
  /** Signed 32-bit words that key the noise. */
  readonly key0: number;
  readonly key1: number;
}

/** `numIds`: ids that have a token. */
export function rowConstants(row: SampleRow, numIds: number): RowConstants {
  const { temperature, topK, topP, minP } = row;
  const isGreedy = !(temperature >= minTemperature);
  const [key0, key1] = noiseKey(row.seed, row.position);
  return {
    isGreedy,
    inverseTemperature: isGreedy ? 1 : Math.max(Math.fround(1 / temperature), smallestNormal),
    minPOffset: minP > 0 ? Math.fround(Math.log(Math.min(minP, 1))) : -Infinity,
    topK: topK > 0 && topK < numIds ? topK : 0,
    topP: topP < 1 ? Math.max(Math.fround(topP), smallestNormal) : 1,
    key0,
    key1,
  };
}

/** Two words from a 64-bit seed and a position: for one position no two seeds share both, for one seed no two positions. */
export function noiseKey(seed: bigint, position: number): readonly [number, number] {
  const low = Number(seed & 0xffff_ffffn) | 0;
  const high = Number((seed >> 32n) & 0xffff_ffffn) | 0;
  const place = mix(position ^ 0x9e3779b9);
  const key0 = mix(low ^ place);
  return [key0, mix(high ^ Math.imul(key0, 0x85ebca6b) ^ place)];
}

/** A bijection of 32-bit words with full avalanche (lowbias32, Chris Wellons, hash-prospector). */
function mix(word: number): number {
  let x = word | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
}
