// The twin against the definitions it stands for: kept sets by sorting, frequencies by softmax, statistics in double precision.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { resultFlag } from '../jit/kernels/sampler-abi.ts';
import type { SampleRow } from '../scheduler/sampling-params.ts';
import { gumbel32, hash32 } from './math.ref.ts';
import { noiseKey } from './row-constants.ts';
import { rawStats, sampleToken } from './sample.ref.ts';

const isFull = Boolean(process.env['XLLM_TEST_FULL']);
const plain: SampleRow = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 1n,
  position: 0,
  edits: null,
  numLogprobs: -1,
};

/** Exact softmax of the kept logits under vLLM's order: temperature, min-p, top-k, top-p; 0 for the others. */
function expectedProbabilities(logits: ArrayLike<number>, { temperature, minP, topK, topP }: SampleRow): number[] {
  const scaled = Array.from(logits, (x) => x / temperature);
  const max = Math.max(...scaled);
  let weights = scaled.map((x) => Math.exp(x - max));
  weights = weights.map((w) => (w >= minP ? w : 0));
  if (topK > 0) {
    const kth = weights.toSorted((a, b) => b - a)[topK - 1] ?? 0;
    weights = weights.map((w) => (w >= kth ? w : 0));
  }
  if (topP < 1) {
    const total = weights.reduce((a, b) => a + b);
    const above = (w: number) => weights.reduce((sum, other) => (other > w ? sum + other : sum), 0);
    weights = weights.map((w) => (above(w) < topP * total ? w : 0));
  }
  const total = weights.reduce((a, b) => a + b);
  return weights.map((w) => w / total);
}

const logits = Float32Array.of(2, 1.5, 1.1, 0.3, -0.4, -1, -1.2, -2, -4, 0.31);

test.each<Partial<SampleRow>>([
  {},
  { temperature: 0.5 },
  { temperature: 2 },
  { topK: 3 },
  { topP: 0.7 },
  { minP: 0.2 },
  { topK: 5, topP: 0.8 },
  { topK: 6, topP: 0.9, minP: 0.1, temperature: 1.3 },
])('frequencies follow the softmax of the kept tokens: %j', (more) => {
  const row = { ...plain, ...more };
  const expected = expectedProbabilities(logits, row);
  const numDraws = isFull ? 200_000 : 5000;
  const counts = new Uint32Array(logits.length);
  for (let position = 0; position < numDraws; position++) {
    counts[sampleToken(logits, logits.length, { ...row, position }).tokenId]!++;
  }
  let chiSquare = 0;
  let freedom = -1;
  for (const [id, p] of expected.entries()) {
    if (p === 0) expect(counts[id]).toBe(0);
    else {
      chiSquare += (counts[id]! - p * numDraws) ** 2 / (p * numDraws);
      freedom++;
    }
  }
  expect(chiSquare).toBeLessThan(freedom + 5 * Math.sqrt(2 * freedom));
});

test('rare tokens of a large vocabulary are drawn as often as they should be', () => {
  const vocabSize = 4000;
  const flat = new Float32Array(vocabSize);
  flat[123] = 8;
  const numDraws = isFull ? 20_000 : 1500;
  let numTop = 0;
  let idSum = 0;
  for (let position = 0; position < numDraws; position++) {
    const { tokenId } = sampleToken(flat, vocabSize, { ...plain, position });
    if (tokenId === 123) numTop++;
    else idSum += tokenId / vocabSize;
  }
  const p = Math.exp(8) / (Math.exp(8) + vocabSize - 1);
  expect(Math.abs(numTop / numDraws - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / numDraws));
  const numRest = numDraws - numTop;
  // The rest is spread evenly: no lean towards low ids.
  expect(Math.abs(idSum / numRest - 0.5)).toBeLessThan(5 / Math.sqrt(12 * numRest));
});

test('draws at neighbouring positions and seeds are independent', () => {
  const two = Float32Array.of(0, 0);
  const draw = (seed: bigint, position: number) => sampleToken(two, 2, { ...plain, seed, position }).tokenId;
  const numDraws = isFull ? 100_000 : 10_000;
  for (const other of [(i: number) => draw(3n, i + 1), (i: number) => draw(4n, i)]) {
    let same = 0;
    for (let i = 0; i < numDraws; i++) if (draw(3n, i) === other(i)) same++;
    expect(Math.abs(same / numDraws - 0.5)).toBeLessThan(2.5 / Math.sqrt(numDraws));
  }
});

test('noise that is not computed would not have won', () => {
  fc.assert(
    fc.property(
      fc.float32Array({ minLength: 1, maxLength: 300, min: -30, max: 30, noNaN: true }),
      fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      fc.nat(),
      (values, seed, position) => {
        const [key0, key1] = noiseKey(seed, position);
        const scores = values.map((value, id) => value + gumbel32(hash32(key0, key1, id)));
        expect(sampleToken(values, values.length, { ...plain, seed, position }).tokenId).toBe(
          scores.indexOf(Math.max(...scores)),
        );
      },
    ),
    { numRuns: isFull ? 5000 : 200, seed: 3 },
  );
});

test('kept sets: ties at a border are all kept, and a set is never empty', () => {
  const kept = (more: Partial<SampleRow>, values: number[]) => {
    const found = new Set<number>();
    for (let position = 0; position < 100; position++)
      found.add(sampleToken(Float32Array.from(values), values.length, { ...plain, ...more, position }).tokenId);
    return [...found].sort((a, b) => a - b);
  };
  expect(kept({ topK: 2 }, [1, 0, 0, 0, -1])).toEqual([0, 1, 2, 3]);
  expect(kept({ topK: 1 }, [1, 1, 0])).toEqual([0, 1]);
  expect(kept({ topP: 0.3 }, [0, 0, 0, -9])).toEqual([0, 1, 2]);
  expect(kept({ topP: 0 }, [0, 1, 0.5])).toEqual([1]);
  expect(kept({ topP: 1e-30, topK: 5, minP: 1 }, [0, 1, 0.5])).toEqual([1]);
  expect(kept({ minP: 1 }, [2, 1, 2, 2])).toEqual([0, 2, 3]);
  expect(kept({ topK: 100 }, [0, 0.1])).toEqual([0, 1]);
});

test('min-p comes first, top-p is of what top-k leaves', () => {
  // 4 tokens of weight 8, 4, 2, 1: with top-k 2 the first holds two thirds.
  const values = Float32Array.from([8, 4, 2, 1], Math.log);
  const found = new Set<number>();
  for (let position = 0; position < 100; position++)
    found.add(sampleToken(values, 4, { ...plain, topK: 2, topP: 0.6, position }).tokenId);
  expect([...found]).toEqual([0]);
});

test('greedy: the lowest of equal ids, whatever else is set', () => {
  const row = { ...plain, temperature: 0, topK: 1, topP: 0.1, minP: 0.9 };
  expect(sampleToken(Float32Array.of(1, 3, 3, 2), 4, row)).toEqual({ tokenId: 1, flags: 0 });
  expect(sampleToken(Float32Array.of(-0, 0), 2, row).tokenId).toBe(0);
  expect(sampleToken(Float32Array.of(1, Infinity, Infinity), 3, row).tokenId).toBe(1);
  expect(sampleToken(Float32Array.of(1, 2, 9), 2, row).tokenId).toBe(1);
});

test('edits come before everything else; forbidden tokens are never chosen', () => {
  const edits = {
    tokenIds: Int32Array.of(0, 1, 2),
    scalePositive: Float32Array.of(0.5, 1, 1),
    scaleNegative: Float32Array.of(2, 1, 1),
    add: Float32Array.of(0, -Infinity, 0.25),
  };
  const row = { ...plain, edits };
  expect(sampleToken(Float32Array.of(4, 9, 1.5, 1), 4, { ...row, temperature: 0 }).tokenId).toBe(0);
  expect(sampleToken(Float32Array.of(-4, 9, 1.5, 1), 4, { ...row, temperature: 0 }).tokenId).toBe(2);
  for (let position = 0; position < 200; position++)
    expect(sampleToken(Float32Array.of(4, 9, 1.5, 1), 4, { ...row, position }).tokenId).not.toBe(1);
});

test('rows without a candidate, and NaN, are flagged', () => {
  const { noCandidate, sawNaN } = resultFlag;
  for (const temperature of [0, 1]) {
    const row = { ...plain, temperature, topP: 0.5, topK: 2 };
    expect(sampleToken(new Float32Array(5).fill(-Infinity), 5, row)).toEqual({ tokenId: 0, flags: noCandidate });
    expect(sampleToken(new Float32Array(5).fill(Number.NaN), 5, row)).toEqual({
      tokenId: 0,
      flags: noCandidate | sawNaN,
    });
    expect(sampleToken(Float32Array.of(Number.NaN, -1, -2e9), 3, row)).toEqual({ tokenId: 1, flags: sawNaN });
  }
});

test('raw statistics are those of double precision', () => {
  const values = Float32Array.from({ length: 3000 }, (_, i) => 8 * Math.sin(i * i));
  const exact = Math.log(values.reduce((sum, x) => sum + Math.exp(x), 0));
  for (const tokenId of [0, 17, 2999]) {
    const { logprob, logSumExp, rank } = rawStats(values, values.length, tokenId);
    expect(logSumExp).toBeCloseTo(exact, 5);
    expect(logprob).toBeCloseTo(values[tokenId]! - exact, 5);
    expect(rank).toBe(1 + values.filter((x) => x > values[tokenId]!).length);
  }
  expect(rawStats(Float32Array.of(-Infinity, -Infinity), 2, 1)).toEqual({
    logprob: -Infinity,
    logSumExp: -Infinity,
    rank: 1,
  });
});

test('a small mass spread over a large vocabulary is not lost in the sum', () => {
  const values = new Float32Array(160_000).fill(-17);
  values[5] = 0;
  const exact = Math.log(1 + (values.length - 1) * Math.exp(-17));
  expect(Math.abs(rawStats(values, values.length, 5).logSumExp - exact)).toBeLessThan(1e-5);
});
