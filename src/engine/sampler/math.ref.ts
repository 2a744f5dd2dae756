// Owns the sampler's arithmetic in scalar form: exp, ln and noise in 32-bit floats, step by step as the kernels do it.
import {
  exp2Polynomial,
  hashLastShift,
  hashSteps,
  ln2High,
  ln2Low,
  logPolynomial,
  maxFloat,
  maxUniform,
  minExponent,
  roundingMagic,
  sqrtHalfBits,
} from '../jit/kernels/sampler-math.ts';

const f32 = Math.fround;
const bits = new Int32Array(1);
const float = new Float32Array(bits.buffer);

const bitsOf = (value: number): number => {
  float[0] = value;
  return bits[0]!;
};
const floatOf = (pattern: number): number => {
  bits[0] = pattern;
  return float[0]!;
};

type Seven = [number, number, number, number, number, number, number];
type Nine = [...Seven, number, number];

// Polynomials are written out: a loop over coefficients takes three times as long.
const [e6, e5, e4, e3, e2, e1, e0] = exp2Polynomial.map(f32) as Seven;
const log2e = f32(Math.LOG2E);

/** exp(t) for t ≤ 0 or -Infinity; relative error below 1.3e-7 · (2 + |t|): the argument is scaled with one rounding. */
export function exp32(t: number): number {
  const y = f32(t * log2e);
  if (!(y >= minExponent)) return 0;
  const z = f32(y + roundingMagic);
  const f = f32(y - f32(z - roundingMagic));
  let p = f32(f32(e6 * f) + e5);
  p = f32(f32(p * f) + e4);
  p = f32(f32(p * f) + e3);
  p = f32(f32(p * f) + e2);
  p = f32(f32(p * f) + e1);
  p = f32(f32(p * f) + e0);
  return floatOf(bitsOf(p) + (bitsOf(z) << 23));
}

const [l8, l7, l6, l5, l4, l3, l2, l1, l0] = logPolynomial.map(f32) as Nine;
const ln2HighF = f32(ln2High);
const ln2LowF = f32(ln2Low);

/** ln(2^k (1 + f)). */
function lnOfParts(k: number, f: number): number {
  const square = f32(f * f);
  let p = f32(f32(l8 * f) + l7);
  p = f32(f32(p * f) + l6);
  p = f32(f32(p * f) + l5);
  p = f32(f32(p * f) + l4);
  p = f32(f32(p * f) + l3);
  p = f32(f32(p * f) + l2);
  p = f32(f32(p * f) + l1);
  p = f32(f32(p * f) + l0);
  let y = f32(f32(p * f) * square);
  y = f32(y + f32(k * ln2LowF));
  y = f32(y - f32(square * 0.5));
  return f32(f32(f + y) + f32(k * ln2HighF));
}

/** ln(x) for a positive normal x; error below 1.2e-7 · max(1, |ln x|). */
export function ln32(x: number): number {
  const pattern = bitsOf(x);
  const k = (pattern - sqrtHalfBits) >> 23;
  return lnOfParts(k, f32(floatOf(pattern - (k << 23)) - 1));
}

/** -ln(1 - v) for v in [2^-32, 1 - 2^-24], with a small relative error for small v too: v itself is the fraction then. */
export function minusLn1m(v: number): number {
  const pattern = bitsOf(f32(1 - v));
  const k = (pattern - sqrtHalfBits) >> 23;
  const f = k === 0 ? -v : f32(floatOf(pattern - (k << 23)) - 1);
  return -lnOfParts(k, f);
}

/** 32 random bits of (key0, key1, tokenId), signed. */
export function hash32(key0: number, key1: number, tokenId: number): number {
  const [first, second, third] = hashSteps;
  let x = tokenId ^ key0;
  x = Math.imul(x ^ (x >>> first.shift), first.multiplier) ^ key1;
  x = Math.imul(x ^ (x >>> second.shift), second.multiplier);
  x = Math.imul(x ^ (x >>> third.shift), third.multiplier);
  return x ^ (x >>> hashLastShift);
}

/** A hash as a number in (0, 1), with steps of 2^-31: fine where noise is large, since that is what decides. */
export function uniform32(hash: number): number {
  const v = f32(f32(f32(hash >>> 1) + 0.5) * 2 ** -31);
  return v < maxUniform ? v : maxUniform;
}

/** Standard Gumbel noise -ln(-ln(1 - v)) of a token's hash. */
export function gumbel32(hash: number): number {
  return -ln32(minusLn1m(uniform32(hash)));
}

/** No less than the hash's noise, cheaply: -ln(1 - v) ≥ v ≥ 2^-(1 + leading zeros). */
export function noiseLimit(hash: number): number {
  return (1 + Math.clz32(hash)) * 0.6932;
}

/** NaN becomes -Infinity and +Infinity the largest float: what remains has an order and finite differences from it. */
export function sane(value: number): number {
  if (!(value > -Infinity)) return -Infinity;
  return value < maxFloat ? value : maxFloat;
}

/** Order-preserving map of floats to unsigned 32-bit integers (-0 just below +0), and back. */
export function keyOf(value: number): number {
  const pattern = bitsOf(value);
  return (pattern < 0 ? ~pattern : pattern ^ 0x8000_0000) >>> 0;
}

export function valueOfKey(key: number): number {
  return floatOf(key >= 0x8000_0000 ? key ^ 0x8000_0000 : ~key);
}

/** Sum of 16 lanes in the order that every kernel keeps: halves onto halves. `lanes` is overwritten. */
export function foldLanes(lanes: Float32Array): number {
  for (let width = 8; width >= 1; width >>= 1) {
    for (let i = 0; i < width; i++) lanes[i] = lanes[i]! + lanes[i + width]!;
  }
  return lanes[0]!;
}
