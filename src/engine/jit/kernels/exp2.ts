// Owns 2^x, the one exponential of the attention kernels: emitted, and as its scalar twin.
import { invariant } from '../../../common/errors.ts';
import { fma32, roundHalfToEven } from './float.ref.ts';
import type { Lanes, Wide } from './lanes.ts';

/**
 * 2^f = 1 + f Q(f) on [-0.5, 0.5], least maximum relative error (2.0e-9 before rounding); Q's highest power first.
 * The constant term makes 2^0 exactly 1.
 */
const polynomial = [
  0.0001535335862771526, 0.001339887460513273, 0.009618437371850499, 0.05550332470763726, 0.2402264791349356,
  0.6931472028551129, 1,
] as const;

/** At and below it the result is exactly 0: exponent bits and mantissa cancel. */
const LOWEST = -127;
const MANTISSA_BITS = 23;

/**
 * The constants of `emitExp2` in registers, for a loop: where 16 lanes are one register there are enough, and each
 * constant read from memory costs as much as a multiplication.
 */
export function takeExp2Constants(lanes: Lanes): readonly Wide[] | null {
  if (lanes.isa === 'avx2') return null;
  return [LOWEST, ...polynomial].map((value) => {
    const constant = lanes.take();
    lanes.load(constant, lanes.constant(value));
    return constant;
  });
}

/** x becomes 2^x for x < 128. Temporaries are destroyed. */
export function emitExp2(lanes: Lanes, x: Wide, n: Wide, power: Wide, constants: readonly Wide[] | null = null): void {
  const [lowest, highest, ...rest] = constants ?? [LOWEST, ...polynomial].map((value) => lanes.constant(value));
  invariant(lowest && highest, 'the constants of 2^x are there');
  lanes.op('vmaxps', x, x, lowest);
  lanes.convert('vcvtps2dq', n, x);
  lanes.convert('vcvtdq2ps', power, n);
  lanes.op('vsubps', x, x, power); // f
  lanes.shiftLeft(n, n, MANTISSA_BITS);
  if ('kind' in highest) lanes.load(power, highest);
  else lanes.move(power, highest);
  for (const coefficient of rest) lanes.op('vfmadd213ps', power, x, coefficient);
  lanes.op('vpaddd', x, power, n);
}

const bits = new Int32Array(1);
const float = new Float32Array(bits.buffer);

/** What `emitExp2` computes, in the same roundings. */
export function exp2(value: number): number {
  const x = Math.max(value, LOWEST);
  const n = roundHalfToEven(x);
  const f = Math.fround(x - n);
  const [highest, ...rest] = polynomial;
  let power = Math.fround(highest);
  for (const coefficient of rest) power = fma32(power, f, Math.fround(coefficient));
  float[0] = power;
  bits[0] = bits[0]! + (n << MANTISSA_BITS);
  return float[0]!;
}
