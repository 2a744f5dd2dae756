// Owns rope scaling: every scheme becomes a factor per frequency and one on the rotated vectors.
// Sources: transformers `modeling_rope_utils.py`; Peng et al., "YaRN" (arXiv 2309.00071).

export type RopeScaling =
  | { readonly type: 'none' }
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly type: 'yarn';
      readonly factor: number;
      readonly originalMaxPositions: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** null: 0.1 ln(factor) + 1. */
      readonly attentionFactor: number | null;
    }
  /** Divisors that the file lists, one per pair of a head's elements. */
  | { readonly type: 'factors'; readonly factors: Float32Array };

export interface RopeFactors {
  /** [headDim / 2] what each frequency base^(-2i / headDim) is divided by; null: nothing. */
  readonly frequencyFactors: Float32Array | null;
  readonly attnFactor: number;
}

export function ropeFactors(scaling: RopeScaling, base: number, headDim: number): RopeFactors {
  const each = (factorOf: (pair: number) => number) =>
    Float32Array.from({ length: headDim / 2 }, (_, i) => factorOf(i));
  const wavelength = (pair: number) => 2 * Math.PI * base ** ((2 * pair) / headDim);
  switch (scaling.type) {
    case 'none':
      return { frequencyFactors: null, attnFactor: 1 };
    case 'factors':
      return { frequencyFactors: scaling.factors, attnFactor: 1 };
    case 'linear':
      return { frequencyFactors: each(() => scaling.factor), attnFactor: 1 };
    case 'llama3': {
      const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
      const factorOf = (pair: number) => {
        const turns = originalMaxPositions / wavelength(pair);
        if (turns < lowFreqFactor) return factor;
        if (turns > highFreqFactor) return 1;
        const smooth = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
        return 1 / ((1 - smooth) / factor + smooth);
      };
      return { frequencyFactors: each(factorOf), attnFactor: 1 };
    }
    case 'yarn': {
      const { factor, originalMaxPositions, betaFast, betaSlow } = scaling;
      /** The pair that turns `rotations` times over the original context. */
      const pairOf = (rotations: number) =>
        (headDim * Math.log(originalMaxPositions / (rotations * 2 * Math.PI))) / (2 * Math.log(base));
      const low = Math.max(Math.floor(pairOf(betaFast)), 0);
      const high = Math.min(Math.ceil(pairOf(betaSlow)), headDim - 1);
      const factorOf = (pair: number) => {
        const ramp = Math.min(1, Math.max(0, (pair - low) / (high === low ? 0.001 : high - low)));
        return 1 / (ramp / factor + 1 - ramp);
      };
      return {
        frequencyFactors: each(factorOf),
        attnFactor: scaling.attentionFactor ?? (factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1),
      };
    }
  }
}
