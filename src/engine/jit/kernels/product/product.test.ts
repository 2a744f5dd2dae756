// Emitted products against their scalar twin, bit for bit, in every format; rows alone against rows in batches; threads.
import { afterEach, describe, expect, it } from 'vitest';
import { supportedIsas } from '../../cpu-features.ts';
import { fineRecord, plainRecord } from './abi.ts';
import { type Gate, gated } from './gate.ts';
import { packedFormats } from './layout.ts';
import { dotFloats, dotGroups } from './product.ref.ts';
import { packedRow } from './pack.ts';
import { quantiseRow } from './records.ref.ts';
import { ProductMachine, type Problem } from './testing/product-machine.ts';
import { generator, randomActivations } from './testing/random.ts';
import { unpackGroups, unpackRow } from './unpack.ref.ts';

const isFull = Boolean(process.env['XLLM_TEST_FULL']);

/** What the product must be. */
function reference({ layout, isFine, packed, x, K, N, gate, bias, old }: Problem): Float32Array {
  const M = x.length / K;
  const rows = Array.from({ length: M }, (_, m) => x.subarray(m * K, (m + 1) * K));
  const { maxQuant } = isFine ? fineRecord : plainRecord;
  const quantised = layout.kind === 'integer' ? rows.map((row) => quantiseRow(row, maxQuant)) : [];
  /** Products of all rows of x by a row of the packed matrix. */
  const column = (row: number): number[] => {
    if (layout.kind === 'float') {
      const weights = unpackRow(layout, packed, K, row);
      return rows.map((xRow) => dotFloats(xRow, weights));
    }
    const weights = unpackGroups(layout, packed, K, row);
    return quantised.map((xRow) => dotGroups(xRow, weights, layout.minima !== null));
  };
  const out = new Float32Array(M * N);
  for (let n = 0; n < N; n++) {
    const plain = column(gate ? packedRow('gate', n) : n);
    const up = gate ? column(packedRow('up', n)) : plain;
    for (let m = 0; m < M; m++) {
      let value = gate ? gated(gate, plain[m]!, up[m]!) : plain[m]!;
      if (bias) value = Math.fround(value + bias[n]!);
      if (old) value = Math.fround(value + old[m * N + n]!);
      out[m * N + n] = value;
    }
  }
  return out;
}

const shapes = [
  { M: 1, N: 16, K: 256 },
  { M: 2, N: 37, K: 768 },
  { M: 5, N: 1, K: 256 },
  { M: 13, N: 70, K: 512 },
  ...(isFull ? [{ M: 300, N: 200, K: 2048 }] : []),
];

describe.each(['avx512', 'avx2'] as const)('%s', (isa) => {
  describe.skipIf(!supportedIsas().includes(isa))(`products (skipped where the CPU lacks ${isa})`, () => {
    let machine: ProductMachine | undefined;
    afterEach(() => {
      machine?.free();
      machine = undefined;
    });
    const make = (...args: ConstructorParameters<typeof ProductMachine>) => {
      machine = new ProductMachine(...args);
      return machine;
    };

    describe.each(packedFormats)('%s', (format) => {
      it.each(shapes)('bits of the twin, $M rows by [$N, $K]', async ({ M, N, K }) => {
        const made = make({ format, isa, M, N, K, seed: M + N + K });
        expect(await made.run()).toEqual(reference(made.problem));
      });

      it('bias, and outputs added to what was there', async () => {
        const made = make({ format, isa, M: 7, N: 45, K: 256, seed: 3, hasBias: true, adds: true });
        expect(await made.run()).toEqual(reference(made.problem));
      });

      it.each(['silu', 'gelu'] as const satisfies Gate[])('%s of one half times the other', async (gate) => {
        const made = make({ format, isa, M: 8, N: 40, K: 256, seed: 4, gate });
        expect(await made.run()).toEqual(reference(made.problem));
      });

      it('a row has the same bits alone, in any batch, with any number of threads', async () => {
        const [M, N, K] = [15, 100, 256];
        const made = make({ format, isa, M, N, K, seed: 5 });
        const all = await made.run(2);
        for (let m = 1; m <= M; m++) {
          expect(await made.run(1 + (m % 3), 0, m)).toEqual(all.slice(0, m * N));
          expect(await made.run(2, m - 1, 1)).toEqual(all.slice((m - 1) * N, m * N));
        }
      });
    });

    describe.each(packedFormats.slice(3))('%s, fine activations', (format) => {
      it.each([1, 3, 9])('%i rows: bits of the twin', async (M) => {
        const made = make({ format, isa, M, N: 40, K: 512, seed: M, isFine: true });
        expect(await made.run(2)).toEqual(reference(made.problem));
      });
    });
  });
});

describe('many rows', () => {
  const isa = supportedIsas()[0];
  it.skipIf(!isa)('more than one chunk of rows, several pieces (skipped without AVX2)', async () => {
    const [M, N, K] = [62, 70, 4096];
    const made = new ProductMachine({ format: 'Q4_0', isa: isa ?? 'avx2', M, N, K, seed: 6 });
    try {
      expect(await made.run(3)).toEqual(reference(made.problem));
    } finally {
      made.free();
    }
  });
});

describe('fine activations', () => {
  it('are 200 times as exact as plain ones', () => {
    const [K, random] = [4096, generator(8)];
    const x = randomActivations(1, K, random).map((value) => Math.min(value, 12));
    const error = (maxQuant: number) =>
      Math.sqrt(
        quantiseRow(x, maxQuant)
          .flatMap(({ quants, scale }, b) => [...quants].map((quant, i) => quant * scale - x[32 * b + i]!))
          .reduce((sum, difference) => sum + difference ** 2, 0) / K,
      );
    expect(error(fineRecord.maxQuant)).toBeLessThan(error(plainRecord.maxQuant) / 200);
  });
});

describe.skipIf(!supportedIsas().includes('avx2'))('avx512, interpreted (skipped without AVX2)', () => {
  it.each(packedFormats)('%s: bits of the twin', async (format) => {
    for (const how of [{ M: 2, isFine: false }, ...(format.includes('F') ? [] : [{ M: 5, isFine: true }])]) {
      const made = new ProductMachine({ format, isa: 'avx512', N: 33, K: 256, seed: 9, ...how }, 'interpreted');
      try {
        expect(await made.run(2)).toEqual(reference(made.problem));
      } finally {
        made.free();
      }
    }
  });
});
