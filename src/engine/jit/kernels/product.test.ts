// Emitted products against their scalar twin, bit for bit; rows alone against rows in batches; one thread against two.
import { afterEach, describe, expect, it } from 'vitest';
import { supportedIsas } from '../cpu-features.ts';
import { dotRow, quantisationRest, quantiseBlock, weightBlock } from './product.ref.ts';
import { BLOCK, type PackedFormat, packedFormats, type StripLayout, TILE_ROWS } from './product-abi.ts';
import { packedSourceBytes } from './product-pack.ts';
import { ProductMachine } from './testing/product-machine.ts';

const isFull = Boolean(process.env['XLLM_TEST_FULL']);

/** Numbers of [0, 1), the same for each seed. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Any bytes are quants; scales and minima are finite. Some blocks are all extremes. */
function randomRows(format: PackedFormat, N: number, K: number, random: () => number): Uint8Array {
  const rowBytes = packedSourceBytes(format, K);
  const bytes = new Uint8Array(N * rowBytes);
  const blockBytes = rowBytes / (K / BLOCK);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const extreme = random() < 0.1 ? (random() < 0.5 ? 0x80 : 0xff) : null;
    for (let i = 0; i < blockBytes; i++) bytes[at + i] = extreme ?? Math.floor(random() * 256);
    view.setFloat16(at, (random() - 0.5) * 0.1, true);
    if (format === 'Q4_1') view.setFloat16(at + 2, (random() - 0.5) * 0.1, true);
  }
  return bytes;
}

function randomActivations(count: number, random: () => number): Float32Array {
  const x = Float32Array.from({ length: count }, () => (random() + random() + random() - 1.5) * 8);
  // A block of zeros, one of the extremes, one with a single large value.
  x.fill(0, 0, BLOCK);
  if (count >= 3 * BLOCK) {
    for (let i = BLOCK; i < 2 * BLOCK; i++) x[i] = 3;
    x[2 * BLOCK + 5] = 1e6;
  }
  return x;
}

function reference(
  { format, record }: StripLayout,
  x: Float32Array,
  rows: Uint8Array,
  N: number,
  K: number,
): Float32Array {
  const M = x.length / K;
  const blocks = K / BLOCK;
  const blockBytes = rows.length / (N * blocks);
  const quantised = Array.from({ length: M * blocks }, (_, b) =>
    quantiseBlock(x.subarray(b * BLOCK, (b + 1) * BLOCK), record.maxQuant),
  );
  const y = new Float32Array(M * N);
  for (let n = 0; n < N; n++) {
    const weights = Array.from({ length: blocks }, (_, b) => {
      const at = (n * blocks + b) * blockBytes;
      return weightBlock(format, rows.subarray(at, at + blockBytes));
    });
    for (let m = 0; m < M; m++) {
      y[m * N + n] = dotRow(format, quantised.slice(m * blocks, (m + 1) * blocks), weights);
    }
  }
  return y;
}

/** In double precision, without rounding activations. */
function exactDot(format: PackedFormat, x: Float32Array, rows: Uint8Array, n: number): number {
  const blocks = x.length / BLOCK;
  const blockBytes = { Q4_0: 18, Q4_1: 20, Q8_0: 34 }[format];
  let sum = 0;
  for (let b = 0; b < blocks; b++) {
    const at = (n * blocks + b) * blockBytes;
    const { quants, scale, minimum } = weightBlock(format, rows.subarray(at, at + blockBytes));
    for (let i = 0; i < BLOCK; i++) sum += x[b * BLOCK + i]! * (quants[i]! * scale + minimum);
  }
  return sum;
}

const shapes = [
  { M: 1, N: 16, K: 32 },
  { M: 2, N: 37, K: 96 },
  { M: 3, N: 1, K: 64 },
  { M: TILE_ROWS, N: 100, K: 576 },
  { M: 11, N: 50, K: 160 },
  { M: 40, N: 33, K: 1088 },
  // More than one chunk of rows.
  { M: 75, N: 17, K: 4096 },
  ...(isFull ? [{ M: 300, N: 200, K: 2048 }] : []),
];

describe.each(['avx2', 'avx512'] as const)('%s', (isa) => {
  describe.skipIf(!supportedIsas().includes(isa))(`products (skipped where the CPU lacks ${isa})`, () => {
    let machine: ProductMachine | undefined;
    afterEach(() => {
      machine?.free();
      machine = undefined;
    });

    for (const format of packedFormats) {
      it.each(shapes)(`${format}: bits of the twin, $M rows by [$N, $K]`, async ({ M, N, K }) => {
        const random = generator(M * 1000 + N + K);
        const rows = randomRows(format, N, K, random);
        const x = randomActivations(M * K, random);
        machine = new ProductMachine(format, isa, rows, N, K);
        expect(await machine.run(x)).toEqual(reference(machine.layout, x, rows, N, K));
      });

      it.each([1, 3, 7])(`${format}: in two parts, %i rows, each part the twin's and both nearly exact`, async (M) => {
        const [N, K] = [40, 320];
        const random = generator(M);
        const rows = randomRows(format, N, K, random);
        const x = Float32Array.from({ length: M * K }, () => random() * 4 - 2);
        machine = new ProductMachine(format, isa, rows, N, K, 2);
        const { record } = machine.layout;
        const parts = new Float32Array(2 * x.length);
        for (let m = 0; m < M; m++) {
          for (let at = m * K; at < (m + 1) * K; at += BLOCK) {
            const block = x.subarray(at, at + BLOCK);
            parts.set(block, at + m * K);
            parts.set(quantisationRest(block, quantiseBlock(block, record.maxQuant)), at + (m + 1) * K);
          }
        }
        const y = await machine.run(x);
        expect(y).toEqual(reference(machine.layout, parts, rows, N, K));
        for (let m = 0; m < M; m++) {
          for (let n = 0; n < N; n++) {
            const exact = exactDot(format, x.subarray(m * K, (m + 1) * K), rows, n);
            expect(Math.abs(y[2 * m * N + n]! + y[(2 * m + 1) * N + n]! - exact)).toBeLessThan(5e-4);
          }
        }
      });

      it(`${format}: a row has the same bits alone, in any batch, with any number of threads`, async () => {
        const [M, N, K] = [2 * TILE_ROWS + 3, 150, 288];
        const random = generator(7);
        const x = randomActivations(M * K, random);
        machine = new ProductMachine(format, isa, randomRows(format, N, K, random), N, K);
        const all = await machine.run(x);
        for (let m = 1; m <= M; m++) {
          expect(await machine.run(x.slice(0, m * K), 1 + (m % 3))).toEqual(all.slice(0, m * N));
          expect(await machine.run(x.slice((m - 1) * K, m * K), 2)).toEqual(all.slice((m - 1) * N, m * N));
        }
      });
    }
  });
});

describe.skipIf(!supportedIsas().includes('avx2'))('avx512, interpreted', () => {
  it.each(packedFormats)('%s: bits of the twin', async (format) => {
    for (const [M, N, K] of [
      [1, 20, 64],
      [TILE_ROWS + 2, 33, 96],
    ] as const) {
      const random = generator(M + N + K);
      const rows = randomRows(format, N, K, random);
      const x = randomActivations(M * K, random);
      const machine = new ProductMachine(format, 'avx512', rows, N, K, 1, 'interpreted');
      try {
        expect(await machine.run(x, 2)).toEqual(reference(machine.layout, x, rows, N, K));
      } finally {
        machine.free();
      }
    }
  });
});
