// Owns the activations of gated feed-forwards: x times a logistic function of x, emitted for 16 lanes.
import type { Lanes, Wide } from './lanes.ts';

export type Activation = 'silu' | 'gelu_tanh';

/*
 * silu(x) = x / (1 + exp(-x)). gelu_tanh(x) = x / 2 * (1 + tanh(u)) = x / (1 + exp(-2u)) with
 * u = sqrt(2 / pi) * (x + 0.044715 x^3): no difference of nearly equal numbers, whatever x is.
 */
const GELU_LINEAR = 2 * Math.sqrt(2 / Math.PI);
const GELU_CUBIC = 0.044715 * GELU_LINEAR;

/** What both have in common with the twin. */
export const activationNumbers = {
  /** exp(-t) = 1 + t P(t) on [-ln 2 / 2, ln 2 / 2], least maximum relative error (3.1e-9); highest power first. */
  polynomial: [
    0.0013814320626574868, -0.008368851065441534, 0.04166840108289372, -0.16666519524102022, 0.4999999337308898, -1, 1,
  ],
  log2e: Math.LOG2E,
  /** ln 2 in two parts; the first has so few bits that its product with an exponent is exact. */
  ln2High: 0.693359375,
  ln2Low: -2.1219444e-4,
  /** 1 + exp(-t) is 1 from far below here; exponents stay those of normal numbers. */
  mostT: 64,
  /** x counts as this where it is less: its result is less than 1e-35 in size. */
  leastX: { silu: -87, gelu_tanh: -10 },
  geluLinear: Math.fround(GELU_LINEAR),
  geluCubic: Math.fround(GELU_CUBIC),
} as const;

const MANTISSA_BITS = 23;

/** x becomes its activation; NaN stays NaN. Temporaries are destroyed. */
export function emitActivation(
  lanes: Lanes,
  activation: Activation,
  x: Wide,
  [t, n, power]: readonly [Wide, Wide, Wide],
): void {
  const { polynomial, log2e, ln2High, ln2Low, geluLinear, geluCubic } = activationNumbers;
  // Of two operands the machine returns the second where one is not a number: x comes second.
  lanes.load(t, lanes.constant(activationNumbers.leastX[activation]));
  lanes.op('vmaxps', x, t, x);
  lanes.load(power, lanes.constant(activationNumbers.mostT));
  if (activation === 'silu') lanes.op('vminps', t, power, x);
  else {
    lanes.op('vmulps', t, x, x);
    lanes.load(n, lanes.constant(geluLinear));
    lanes.op('vfmadd231ps', n, t, lanes.constant(geluCubic));
    lanes.op('vmulps', n, n, x);
    lanes.op('vminps', t, power, n);
  }
  // exp(-t) = 2^n exp(-(t + n ln 2)), n = -t / ln 2 rounded.
  lanes.op('vmulps', n, t, lanes.constant(-log2e));
  lanes.convert('vcvtps2dq', n, n);
  lanes.convert('vcvtdq2ps', power, n);
  lanes.op('vfmadd231ps', t, power, lanes.constant(ln2High));
  lanes.op('vfmadd231ps', t, power, lanes.constant(ln2Low));
  const [highest, ...rest] = polynomial;
  lanes.load(power, lanes.constant(highest));
  for (const coefficient of rest) lanes.op('vfmadd213ps', power, t, lanes.constant(coefficient));
  lanes.shiftLeft(n, n, MANTISSA_BITS);
  lanes.op('vpaddd', power, power, n);
  lanes.op('vaddps', power, power, lanes.constant(1));
  lanes.op('vdivps', x, x, power);
}
