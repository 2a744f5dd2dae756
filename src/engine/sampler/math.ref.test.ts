// The sampler's arithmetic against double precision, and its noise against what chance would do. All seeds are fixed.
import { expect, test } from 'vitest';
import { exp32, gumbel32, hash32, keyOf, ln32, noiseLimit, sane, uniform32, valueOfKey } from './math.ref.ts';
import { noiseKey } from './row-constants.ts';

const numSamples = process.env['XLLM_TEST_FULL'] ? 4_000_000 : 100_000;

/** Σ (observed - expected)² / expected, as a number of standard deviations from its mean. */
function chiSquareDeviation(counts: ArrayLike<number>, expected: number): number {
  let sum = 0;
  for (let i = 0; i < counts.length; i++) sum += (counts[i]! - expected) ** 2 / expected;
  const freedom = counts.length - 1;
  return (sum - freedom) / Math.sqrt(2 * freedom);
}

test('exp32 is within its stated error, and 0 where the result would not be normal', () => {
  let worst = 0;
  for (let i = 0; i <= numSamples; i++) {
    const t = Math.fround((-87 * i) / numSamples);
    worst = Math.max(worst, Math.abs(exp32(t) / Math.exp(t) - 1) / (2 - t));
  }
  expect(worst).toBeLessThan(1.3e-7);
  expect(exp32(0)).toBe(1);
  expect(exp32(-0)).toBe(1);
  for (const t of [-87.34, -88, -1e30, -Infinity]) expect(exp32(t)).toBe(0);
});

test('ln32 is within its stated error', () => {
  let worst = 0;
  for (let i = 0; i < numSamples; i++) {
    const x = Math.fround(2 ** -100 * 2 ** ((200 * i) / numSamples));
    worst = Math.max(worst, Math.abs(ln32(x) - Math.log(x)) / Math.max(1, Math.abs(Math.log(x))));
  }
  expect(worst).toBeLessThan(1.2e-7);
  expect(ln32(1)).toBe(0);
});

test('noise is -ln(-ln(1 - v)) of the uniform number, finite, and below its limit', () => {
  const hashes = [0, 1, 2, 3, -1, -2, 0x7fff_ffff, 0x8000_0000 | 0, 0x4aaa_aaaa, 0x0fff_ffff];
  for (let i = 0; i < numSamples; i++) hashes.push(hash32(1, 2, i) >>> (i % 29));
  let worst = 0;
  for (const hash of hashes) {
    const v = uniform32(hash);
    const exact = -Math.log(-Math.log1p(-v));
    const noise = gumbel32(hash);
    worst = Math.max(worst, Math.abs(noise - exact));
    if (!(v > 0 && v < 1 && noise <= noiseLimit(hash))) expect.fail(`hash ${hash}: v ${v}, noise ${noise}`);
  }
  expect(worst).toBeLessThan(2e-6);
  expect(gumbel32(0)).toBeCloseTo(32 * Math.LN2, 5);
  expect(gumbel32(-1)).toBeLessThan(-2.8);
});

test('noise has the mean and variance of the Gumbel distribution', () => {
  let sum = 0;
  let squares = 0;
  for (let id = 0; id < numSamples; id++) {
    const noise = gumbel32(hash32(...noiseKey(99n, id >> 16), id & 0xffff));
    sum += noise;
    squares += noise * noise;
  }
  const mean = sum / numSamples;
  expect(Math.abs(mean - 0.5772157)).toBeLessThan((5 * 1.2825) / Math.sqrt(numSamples));
  expect(squares / numSamples - mean * mean).toBeCloseTo(Math.PI ** 2 / 6, 1);
});

const streams: Readonly<Record<string, (i: number) => number>> = {
  'neighbouring tokens': (i) => hash32(...noiseKey(0n, 0), i),
  'neighbouring positions': (i) => hash32(...noiseKey(0n, i), 0),
  'neighbouring seeds': (i) => hash32(...noiseKey(BigInt(i), 17), 5),
  'seeds that differ in their upper half': (i) => hash32(...noiseKey(BigInt(i) << 32n, 17), 5),
  'tokens and positions together': (i) => hash32(...noiseKey(7n, i), i),
};

test.each(Object.entries(streams))('%s: uniform in every byte, and in pairs', (_, stream) => {
  const bytes = [0, 8, 16, 24].map((shift) => ({ shift, counts: new Uint32Array(256) }));
  const pairs = new Uint32Array(4096);
  const count = Math.min(numSamples, 400_000);
  let last = stream(0);
  for (let i = 1; i <= count; i++) {
    const hash = stream(i);
    for (const { shift, counts } of bytes) counts[(hash >>> shift) & 255]!++;
    pairs[((last >>> 26) << 6) | (hash >>> 26)]!++;
    last = hash;
  }
  for (const { counts } of bytes) expect(Math.abs(chiSquareDeviation(counts, count / 256))).toBeLessThan(5);
  expect(Math.abs(chiSquareDeviation(pairs, count / 4096))).toBeLessThan(5);
});

test('every bit of token, position and seed flips each bit of the hash half of the time', () => {
  const numTrials = 2000;
  const at = (seed: bigint, position: number, id: number) => hash32(...noiseKey(seed, position), id);
  // Spread out, so that no trial is another one's flip.
  const place = (i: number) => Math.imul(i, 0x9e3779b9) >>> 12;
  const seed = (i: number) => BigInt.asUintN(64, BigInt(i) * 0x9e3779b97f4a7c15n);
  const flips: ((i: number, bit: number) => number)[] = [
    (i, bit) => at(5n, place(i), 1000) ^ at(5n, place(i), 1000 ^ (1 << (bit % 18))),
    (i, bit) => at(5n, place(i), 1000) ^ at(5n, place(i) ^ (1 << (bit % 20)), 1000),
    (i, bit) => at(seed(i), 3, 1000) ^ at(seed(i) ^ (1n << BigInt(bit)), 3, 1000),
  ];
  for (const flip of flips) {
    for (let bit = 0; bit < 64; bit += 3) {
      const counts = new Uint32Array(32);
      for (let i = 0; i < numTrials; i++) {
        const changed = flip(i, bit);
        for (let out = 0; out < 32; out++) counts[out]! += (changed >>> out) & 1;
      }
      // Five standard deviations of a fair coin.
      for (const count of counts) expect(Math.abs(count / numTrials - 0.5)).toBeLessThan(2.5 / Math.sqrt(numTrials));
    }
  }
});

test('keys of floats keep their order and lead back', () => {
  const values = [-Infinity, -3.4e38, -1, -1e-40, -0, 0, 1e-40, 1, 3.4e38, Infinity].map(Math.fround);
  const keys = values.map(keyOf);
  expect(keys).toEqual(keys.toSorted((a, b) => a - b));
  for (const value of values) expect(valueOfKey(keyOf(value))).toBe(value);
});

test('sane values have an order', () => {
  expect([Number.NaN, -Infinity, 1, Infinity].map(sane)).toEqual([-Infinity, -Infinity, 1, 3.4028234663852886e38]);
});
