// Owns what the activations are, in the roundings of the emitted code.
import { type Activation, activationNumbers } from './activation.ts';
import { fma32, roundHalfToEven } from './float.ref.ts';

const { fround } = Math;
const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

export function activate(value: number, activation: Activation): number {
  const { polynomial, log2e, ln2High, ln2Low, mostT, leastX, geluLinear, geluCubic } = activationNumbers;
  const x = Math.max(leastX[activation], value);
  const inner = activation === 'silu' ? x : fround(x * fma32(fround(x * x), geluCubic, geluLinear));
  let t = Math.min(mostT, inner);
  if (Number.isNaN(t)) return t;
  const n = roundHalfToEven(fround(t * fround(-log2e)));
  t = fma32(n, ln2High, t);
  t = fma32(n, fround(ln2Low), t);
  const [highest, ...rest] = polynomial;
  let power = fround(highest);
  for (const coefficient of rest) power = fma32(power, t, fround(coefficient));
  float[0] = power;
  bits[0] = bits[0]! + (n << 23);
  return fround(x / fround(float[0]! + 1));
}
