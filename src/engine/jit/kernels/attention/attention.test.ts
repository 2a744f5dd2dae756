// Emitted KV write and attention against their scalar twins, and against themselves in every split: bit for bit.
import { describe, expect, test } from 'vitest';
import { assemblyText } from '../../asm/text.ts';
import { gnuAssemble } from '../../asm/testing/gnu-as.ts';
import { type Isa, supportedIsas } from '../../cpu-features.ts';
import type { KvShape } from '../abi.ts';
import { emitKvWriteOp } from '../kv-write.ts';
import { type Execution, KvMachine, type Layer } from '../testing/kv-machine.ts';
import {
  expected,
  integer,
  pick,
  type Random,
  randomSequence,
  randomSplit,
  runSplit,
  runStep,
  runStepInParallel,
  seeded,
} from '../testing/sequences.ts';
import { emitAttentionOp } from './attention.ts';

const numCases = process.env.XLLM_TEST_FULL ? 200 : 10;
const numInterpreted = process.env.XLLM_TEST_FULL ? 20 : 2;
const isas: readonly Isa[] = ['avx2', 'avx512'];

function randomShape(random: Random): KvShape {
  const numKvHeads = integer(random, 1, 3);
  return {
    numKvHeads,
    numHeads: numKvHeads * pick(random, [1, 2, 3, 3, 4, 5, 6, 7, 8, 12, 20]),
    headDim: 16 * pick(random, [1, 2, 3, 4, 4, 5, 6, 8, 8, 16]),
    blockTokens: pick(random, [16, 16, 32, 128]),
    element: pick(random, ['f16', 'f16', 'f32', 'bf16', 'int8']),
    hasSoftCap: random() < 0.25,
  };
}

/** What an interpreter gets through. */
function smallShape(random: Random): Pick<KvShape, 'numHeads' | 'numKvHeads' | 'headDim'> {
  const numKvHeads = integer(random, 1, 2);
  return { numKvHeads, numHeads: numKvHeads * integer(random, 1, 5), headDim: 16 * integer(random, 1, 3) };
}

const randomLayer = (random: Random, { hasSoftCap, headDim, numHeads }: KvShape): Layer => ({
  scale: headDim ** -0.5,
  softCap: hasSoftCap ? pick(random, [5, 50]) : null,
  window: random() < 0.5 ? null : integer(random, 1, 700),
  // Around the largest scores: far below and far above too.
  sinks: random() < 0.6 ? null : Float32Array.from({ length: numHeads }, () => (random() * 2 - 1) * 30),
});

/** Enough for the sequences of a test. */
const numPagesFor = ({ blockTokens }: KvShape): number => Math.ceil(5000 / blockTokens) + 4;

/** Pages of a sequence: in a row, or anywhere. */
function randomPages(random: Random, free: number[], numBlocks: number): number[] {
  if (random() < 0.5) return free.splice(0, numBlocks);
  return Array.from({ length: numBlocks }, () => free.splice(Math.floor(random() * free.length), 1)[0] ?? -1);
}

const bits = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer, values.byteOffset, values.length);

/** Equal bit for bit; says where not. */
function expectSame(actual: Float32Array, wanted: Float32Array, what: string): void {
  expect(actual.length).toBe(wanted.length);
  const [a, b] = [bits(actual), bits(wanted)];
  const wrong = a.findIndex((value, i) => value !== b[i]);
  if (wrong >= 0) expect.fail(`${what}: element ${wrong} is ${actual[wrong]} instead of ${wanted[wrong]}`);
}

/** A few rows with history, decoding and prefilling together: all against the reference. */
function checkRandomStep(seed: number, isa: Isa, execution: Execution): void {
  const random = seeded(seed);
  const isSmall = execution === 'interpreted';
  const shape = isSmall ? { ...randomShape(random), ...smallShape(random) } : randomShape(random);
  const layer = randomLayer(random, shape);
  const machine = new KvMachine(shape, isa, layer, numPagesFor(shape), execution);
  try {
    const free = Array.from({ length: numPagesFor(shape) }, (_, page) => page);
    const rows = Array.from({ length: integer(random, 1, 4) }, () => {
      const history = pick(random, [0, 0, integer(random, 1, 40), integer(random, 480, isSmall ? 540 : 1100)]);
      const numTokens = pick(random, [1, 1, integer(random, 2, isSmall ? 9 : 60)]);
      const pages = randomPages(random, free, Math.ceil((history + numTokens) / shape.blockTokens));
      return { sequence: randomSequence(random, shape, history + numTokens, pages), history, numTokens };
    });
    for (const { sequence, history } of rows) {
      if (history > 0)
        runStep(machine, layer, [{ sequence, firstPosition: 0, numTokens: history }], { onlyWrites: true });
    }
    const parts = rows.map(({ sequence, history, numTokens }) => ({ sequence, firstPosition: history, numTokens }));
    const options = {
      numThreads: integer(random, 1, 3),
      gap: pick(random, [0, 5]),
      allSegments: random() < 0.3,
    };
    const result = runStep(machine, layer, parts, options);
    const rowFloats = shape.numHeads * shape.headDim;
    let token = 0;
    for (const { sequence, firstPosition, numTokens } of parts) {
      for (const t of new Set([0, numTokens >> 1, numTokens - 1])) {
        const actual = result.subarray((token + t) * rowFloats, (token + t + 1) * rowFloats);
        const what = `seed ${seed}, position ${firstPosition + t}, ${JSON.stringify({ ...shape, ...layer })}`;
        expectSame(actual, expected(shape, layer, sequence, firstPosition + t), what);
      }
      token += numTokens;
    }
  } finally {
    machine.free();
  }
}

describe.each(isas)('%s', (isa) => {
  const runs = test.skipIf(!supportedIsas().includes(isa));

  runs('random steps equal the reference bit for bit', () => {
    for (let seed = 0; seed < numCases; seed++) checkRandomStep(seed, isa, 'native');
  });

  runs('chunks that lie wholly before the window change nothing', () => {
    const random = seeded(7);
    const shape: KvShape = { ...randomShape(random), numHeads: 3, numKvHeads: 1, blockTokens: 16 };
    const layer: Layer = { scale: 0.2, softCap: shape.hasSoftCap ? 5 : null, window: 40, sinks: null };
    const machine = new KvMachine(shape, isa, layer, 100);
    try {
      const sequence = randomSequence(
        random,
        shape,
        1300,
        Array.from({ length: 82 }, (_, page) => page),
      );
      runStep(machine, layer, [{ sequence, firstPosition: 0, numTokens: 1300 }], { onlyWrites: true });
      for (const position of [1030, 1299]) {
        const part = [{ sequence, firstPosition: position, numTokens: 1 }];
        const wanted = expected(shape, layer, sequence, position);
        expectSame(runStep(machine, layer, part, { allSegments: true, numThreads: 2 }), wanted, `position ${position}`);
        expectSame(runStep(machine, layer, part), wanted, `position ${position}`);
      }
    } finally {
      machine.free();
    }
  });

  runs('a sequence gets the same bits however it is cut, batched, paged and threaded', async () => {
    for (let seed = 0; seed < numCases / 3; seed++) {
      const random = seeded(1000 + seed);
      const shape = randomShape(random);
      const layer = randomLayer(random, shape);
      const numTokens = integer(random, 500, 800);
      const machine = new KvMachine(shape, isa, layer, numPagesFor(shape));
      try {
        const free = Array.from({ length: numPagesFor(shape) }, (_, page) => page);
        const numBlocks = Math.ceil(numTokens / shape.blockTokens);
        const sequence = randomSequence(random, shape, numTokens, randomPages(random, free, numBlocks));
        const whole = runSplit(machine, layer, sequence, [numTokens]);
        const what = `seed ${seed} ${JSON.stringify({ ...shape, ...layer })}`;
        const again = (split: readonly number[], numThreads: number) =>
          runSplit(machine, layer, { ...sequence, pages: sequence.pages.toReversed() }, split, { numThreads });
        expectSame(
          again(
            Array.from({ length: numTokens }, () => 1),
            1,
          ),
          whole,
          `${what}: decoded`,
        );
        expectSame(again(randomSplit(random, numTokens, 100), 2), whole, `${what}: in chunks, two threads`);

        const others = Array.from({ length: 3 }, () => {
          const length = integer(random, 1, 300);
          const pages = randomPages(random, free, Math.ceil(length / shape.blockTokens));
          return { sequence: randomSequence(random, shape, length, pages), firstPosition: 0, numTokens: length };
        });
        const parts = [others[0]!, { sequence, firstPosition: 0, numTokens }, others[1]!, others[2]!];
        const start = others[0]!.numTokens * shape.numHeads * shape.headDim;
        const batched = runStep(machine, layer, parts);
        expectSame(batched.subarray(start, start + whole.length), whole, `${what}: in a batch`);
        expectSame(await runStepInParallel(machine, layer, parts, 2), batched, `${what}: two threads at once`);
      } finally {
        machine.free();
      }
    }
  });

  test('interpreted: random steps equal the reference, and touch no memory but their own', () => {
    for (let seed = 0; seed < numInterpreted; seed++) checkRandomStep(2000 + seed, isa, 'interpreted');
  });

  test('bytes are those of GNU as', () => {
    for (let seed = 0; seed < 4; seed++) {
      const shape = randomShape(seeded(seed));
      for (const code of [emitKvWriteOp(shape, isa), emitAttentionOp(shape, isa)]) {
        expect(Buffer.from(code.bytes).equals(Buffer.from(gnuAssemble(assemblyText(code)))), code.name).toBe(true);
      }
    }
  });
});
