// The emitted sampler against its TypeScript twin, bit for bit.
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { sampleInTypeScript } from '../../sampler/fallback.ts';
import type { SamplerInput } from '../../sampler/sampler-task.ts';
import { outputKind } from '../../scheduler/plan.ts';
import type { LogitEdits, SampleRow } from '../../scheduler/sampling-params.ts';
import { canExecute } from '../asm/exec-memory.ts';
import { type Isa, supportedIsas } from '../cpu-features.ts';
import { KernelRig } from '../../sampler/testing/kernel-rig.ts';

const numRuns = process.env['XLLM_TEST_FULL'] ? 4000 : 200;

/** A small fast generator, so that long rows cost fast-check nothing. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
    return ((x ^ (x >>> 15)) >>> 0) / 2 ** 32;
  };
}

const shapes: Readonly<Record<string, (uniform: () => number) => number>> = {
  normal: (u) => 3 * Math.sqrt(-2 * Math.log(u() + 1e-12)) * Math.cos(2 * Math.PI * u()),
  peaked: (u) => (u() < 0.01 ? 20 + 3 * u() : -5 * u()),
  ties: (u) => Math.floor(u() * 4) - 2,
  equal: () => 1.5,
  wide: (u) => (u() - 0.5) * 10 ** (u() * 38),
  huge: (u) => 1e8 + Math.floor(u() * 64) * 8,
  holes: (u) => (u() < 0.3 ? -Infinity : 4 * u()),
  signs: (u) => (u() < 0.5 ? -0 : 0),
  forbidden: () => -Infinity,
  infinite: (u) => (u() < 0.05 ? Infinity : u()),
  broken: (u) => (u() < 0.05 ? Number.NaN : u() < 0.1 ? Infinity : 5 * u()),
  lost: () => Number.NaN,
  largest: (u) => (u() < 0.5 ? 3.4028234663852886e38 : -3.4028234663852886e38),
};

const edits = (numIds: number, seed: number, count: number): LogitEdits => {
  const uniform = random(seed);
  const ids = new Set(Array.from({ length: Math.min(count, numIds) }, () => Math.floor(uniform() * numIds)));
  const tokenIds = Int32Array.from(ids).sort();
  const column = (value: () => number) => Float32Array.from(tokenIds, value);
  return {
    tokenIds,
    scalePositive: column(() => 1 / (1 + uniform())),
    scaleNegative: column(() => 1 + uniform()),
    add: column(() => (uniform() < 0.2 ? -Infinity : 10 * uniform() - 5)),
  };
};

const rowArbitrary = (numIds: number) =>
  fc.record({
    shape: fc.constantFrom(...Object.keys(shapes)),
    seed: fc.nat(),
    kind: fc.constantFrom(
      outputKind.sample,
      outputKind.sample,
      outputKind.sample,
      outputKind.promptLogprobs,
      outputKind.hidden,
    ),
    target: fc.nat(numIds - 1),
    temperature: fc.constantFrom(0, 1e-6, 0.01, 0.3, 0.7, 1, 1, 1, 2, 100),
    topK: fc.oneof(fc.constantFrom(0, 0, 1, 2, 20, 50, 1000), fc.nat(numIds + 5)),
    topP: fc.oneof(fc.constantFrom(1, 1, 0, 0.5, 0.9, 0.95, 0.999999), fc.double({ min: 0.001, max: 1, noNaN: true })),
    minP: fc.oneof(fc.constantFrom(0, 0, 0.05, 1), fc.double({ min: 0, max: 1, noNaN: true })),
    tokenSeed: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    position: fc.nat(100_000),
    numEdits: fc.constantFrom(0, 0, 1, 5, 300),
    numLogprobs: fc.constantFrom(-1, -1, 0, 5, 20),
  });

const stepOf = (vocabSizes: fc.Arbitrary<number>) =>
  vocabSizes
    .chain((vocabSize) =>
      fc.record({
        vocabSize: fc.constant(vocabSize),
        numMasked: fc.oneof(fc.constant(0), fc.nat(Math.min(vocabSize - 1, 40))),
        numThreads: fc.integer({ min: 1, max: 3 }),
      }),
    )
    .chain((size) =>
      fc.record({
        size: fc.constant(size),
        rows: fc.array(rowArbitrary(size.vocabSize - size.numMasked), { minLength: 1, maxLength: 4 }),
      }),
    );

const smallSizes = fc.oneof(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 480, max: 1100 }));
const smallStepArbitrary = stepOf(smallSizes);
const stepArbitrary = stepOf(fc.oneof(smallSizes, fc.integer({ min: 1, max: 9000 })));

type Step = typeof stepArbitrary extends fc.Arbitrary<infer T> ? T : never;

function materialise({ size, rows }: Step): { input: SamplerInput; logits: Float32Array; numIds: number } {
  const numIds = size.vocabSize - size.numMasked;
  const logits = new Float32Array(rows.length * size.vocabSize);
  for (const [i, row] of rows.entries()) {
    const uniform = random(row.seed);
    const draw = shapes[row.shape]!;
    for (let id = 0; id < size.vocabSize; id++) logits[i * size.vocabSize + id] = draw(uniform);
  }
  const input = {
    outputKinds: Uint8Array.from(rows, ({ kind }) => kind),
    targetIds: Int32Array.from(rows, ({ kind, target }) => (kind === outputKind.promptLogprobs ? target : -1)),
    sampling: rows.map(
      (row): SampleRow => ({
        temperature: row.temperature,
        topK: row.topK,
        topP: row.topP,
        minP: row.minP,
        seed: row.tokenSeed,
        position: row.position,
        edits: row.numEdits > 0 ? edits(numIds, row.seed, row.numEdits) : null,
        numLogprobs: row.numLogprobs,
      }),
    ),
  };
  return { input, logits, numIds };
}

const plain = { topK: 0, topP: 1, minP: 0, edits: null, numLogprobs: -1 };
const vocabularies = [49_152, 151_936, 50_257];

const probe = canExecute();
const isas = probe.ok ? supportedIsas() : [];

describe.each([
  { isa: 'avx2', how: 'native' },
  { isa: 'avx512', how: 'native' },
  { isa: 'avx2', how: 'interpreted' },
  { isa: 'avx512', how: 'interpreted' },
] as const satisfies { isa: Isa; how: 'native' | 'interpreted' }[])('$isa, $how', ({ isa, how }) => {
  const canRun = how === 'interpreted' || isas.includes(isa);
  const rig = canRun ? new KernelRig(isa, how) : null;
  afterAll(() => rig?.free());

  test.skipIf(!canRun)('agrees with the twin in every bit, and leaves the logits alone', () => {
    fc.assert(
      fc.property(how === 'native' ? stepArbitrary : smallStepArbitrary, (step) => {
        const { input, logits, numIds } = materialise(step);
        const { vocabSize, numThreads } = step.size;
        const { logitsAfter, ...ours } = rig!.sample(input, logits, vocabSize, numIds, numThreads);
        expect(ours).toEqual(sampleInTypeScript(input, logits, vocabSize, numIds));
        expect(new Uint32Array(logitsAfter.buffer)).toEqual(new Uint32Array(logits.buffer));
      }),
      { numRuns: how === 'native' ? numRuns : numRuns / 10, seed: 42 },
    );
  });

  if (how === 'native')
    test.skipIf(!canRun)('agrees with the twin on vocabularies of real models', () => {
      for (const [i, vocabSize] of vocabularies.entries()) {
        const uniform = random(i);
        const logits = Float32Array.from({ length: vocabSize }, () => shapes['normal']!(uniform));
        for (const more of [{ temperature: 0 }, { temperature: 1 }, { temperature: 0.6, topK: 20, topP: 0.95 }]) {
          const sampling = [{ ...plain, ...more, seed: BigInt(i), position: 9, numLogprobs: 20 }];
          const input = { outputKinds: Uint8Array.of(outputKind.sample), targetIds: Int32Array.of(-1), sampling };
          const { logitsAfter, ...ours } = rig!.sample(input, logits, vocabSize, vocabSize);
          expect(ours).toEqual(sampleInTypeScript(input, logits, vocabSize, vocabSize));
          expect(logitsAfter).toEqual(logits);
        }
      }
    });

  test.skipIf(!canRun)('an output is the same alone as in any batch, whichever thread it falls to', () => {
    const vocabSize = 700;
    const uniform = random(8);
    const rows = Array.from({ length: 7 }, (_, i) => ({
      logits: Float32Array.from({ length: vocabSize }, () => shapes['normal']!(uniform)),
      row: { ...plain, temperature: 1, topP: i % 2 ? 0.9 : 1, seed: 5n, position: i, numLogprobs: 3 },
    }));
    const sample = (chosen: typeof rows, numThreads: number) =>
      rig!.sample(
        {
          outputKinds: new Uint8Array(chosen.length).fill(outputKind.sample),
          targetIds: new Int32Array(chosen.length).fill(-1),
          sampling: chosen.map(({ row }) => row),
        },
        Float32Array.from(chosen.flatMap(({ logits }) => [...logits])),
        vocabSize,
        vocabSize,
        numThreads,
      );
    const together = sample(rows, 3);
    for (const [i, row] of rows.entries()) {
      const alone = sample([row], 1);
      expect(alone.tokenIds[0]).toBe(together.tokenIds[i]);
      expect(alone.topLogprobs[0]).toEqual(together.topLogprobs[i]);
    }
  });
});
