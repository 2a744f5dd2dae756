// The scalar twins' arithmetic, against exact integers and known cases.
import { expect, test } from 'vitest';
import { exp2 } from './exp2.ts';
import { fma32, foldSum } from './float.ref.ts';
import { seeded } from './testing/sequences.ts';

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

/** A float as an integer times 2^-149. */
function scaled(value: number): bigint {
  float[0] = value;
  const bits = word[0]!;
  const exponent = (bits >> 23) & 255;
  const mantissa = BigInt(bits & 0x7f_ffff) + (exponent > 0 ? 1n << 23n : 0n);
  const magnitude = mantissa << BigInt(Math.max(exponent, 1) - 1);
  return bits >>> 31 ? -magnitude : magnitude;
}

test('fma32 rounds once: no float lies nearer to the exact result', () => {
  const random = seeded(1);
  const number = () => Math.fround((random() - 0.5) * 2 ** Math.floor(random() * 40 - 20));
  for (let i = 0; i < 20_000; i++) {
    const [a, b] = [number(), number()];
    // Half of the sums nearly cancel or nearly tie.
    const c = i % 2 ? number() : Math.fround(-a * b * (1 + Math.floor(random() * 3) * 2 ** -24));
    const exact = scaled(a) * scaled(b) + (scaled(c) << 149n); // times 2^-298
    const result = fma32(a, b, c);
    const distance = (value: number) => {
      const difference = (scaled(value) << 149n) - exact;
      return difference < 0n ? -difference : difference;
    };
    float[0] = result;
    const bits = word[0]!;
    for (const neighbour of [bits + 1, bits - 1]) {
      word[0] = neighbour;
      const other = float[0]!;
      if (!Number.isFinite(other)) continue;
      const [ours, theirs] = [distance(result), distance(other)];
      // A tie goes to the even mantissa.
      if (theirs < ours || (theirs === ours && bits & 1 && result !== 0)) expect.fail(`fma32(${a}, ${b}, ${c})`);
    }
  }
});

test('exp2 is exact at integers, 0 from -127 down, and else within 2 units in the last place', () => {
  for (let n = -126; n <= 0; n++) expect(exp2(n)).toBe(2 ** n);
  for (const x of [-127, -1000, -3e38]) expect(exp2(x)).toBe(0);
  for (let i = 0; i < 10_000; i++) {
    const x = Math.fround(-i / 81);
    expect(Math.abs(exp2(x) / 2 ** x - 1)).toBeLessThan(2 ** -22);
  }
});

test('foldSum adds i and i + 8, then 4, 2, 1', () => {
  const tiny = 2 ** -24;
  // 1 + tiny is 1; tiny + tiny first keeps it.
  const lanes = Float32Array.from({ length: 16 }, (_, i) => (i === 0 ? 1 : i === 1 || i === 9 ? tiny : 0));
  expect(foldSum(lanes)).toBe(1 + 2 * tiny);
  const other = Float32Array.from({ length: 16 }, (_, i) => (i === 0 ? 1 : i === 8 || i === 4 ? tiny : 0));
  expect(foldSum(other)).toBe(1);
});
