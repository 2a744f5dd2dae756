// Row kernels against their scalar twins, bit for bit: any number of rows, of threads, and both instruction sets.
import { afterEach, describe, expect, it } from 'vitest';
import type { MachineCode } from '../../asm/program.ts';
import { supportedIsas } from '../../cpu-features.ts';
import { activate } from '../activation.ref.ts';
import { fma32 } from '../float.ref.ts';
import { fineRecord, plainRecord, recordsBytes } from '../product/abi.ts';
import { packedBytes, packedFormats } from '../product/layout.ts';
import { packRows } from '../product/pack.ts';
import { recordsOf } from '../product/records.ref.ts';
import { unpackRow } from '../product/unpack.ref.ts';
import { layoutOf, randomRows } from '../product/testing/random.ts';
import { integer, pick, type Random, seeded } from '../testing/sequences.ts';
import { emitEmbed, embedOp } from './embed.ts';
import { emitGate, gateOp } from './gate.ts';
import { emitGather, gatherOp } from './gather.ts';
import { emitNorm, normObstacle, normOp } from './norm.ts';
import { emitQuantise, quantiseOp } from './quantise.ts';
import { emitRope, ropeObstacle, ropeOp } from './rope.ts';
import { fillRopeTable } from './rope-table.ts';
import type { OpLayout } from './row-op.ts';
import { layerNorm, rmsNorm, ropeHead } from './rows.ref.ts';
import { RowMachine } from './testing/row-machine.ts';

const normal = (random: Random) => (random() + random() + random() - 1.5) * 2;
const numbers = (random: Random, count: number, size = 1) =>
  Float32Array.from({ length: count }, () => normal(random) * size);

/** Activations of models: some rows much larger than others, some blocks zero, some values far out. */
function activations(random: Random, numRows: number, numFloats: number): Float32Array[] {
  return Array.from({ length: numRows }, () => {
    const x = numbers(random, numFloats, 10 ** integer(random, -3, 3));
    if (random() < 0.3) x.fill(0, 0, 32);
    if (random() < 0.3) x[integer(random, 0, numFloats - 1)] = 1e5;
    // Ties of rounding: quants and halves.
    if (random() < 0.3 && numFloats >= 64) for (let i = 32; i < 64; i++) x[i] = i === 32 ? 127 : i - 40.5;
    return x;
  });
}

/** Rows one after the other. */
const joined = (rows: readonly Float32Array[]) => Float32Array.from(rows.flatMap((row) => [...row]));

const variants = [
  { isa: 'avx2', how: 'native' },
  { isa: 'avx512', how: 'native' },
  { isa: 'avx512', how: 'interpreted' },
] as const;

describe.each(variants)('$isa, $how', ({ isa, how }) => {
  describe.skipIf(how === 'native' && !supportedIsas().includes(isa))(
    'row kernels (skipped where the CPU cannot)',
    () => {
      const numRounds = how === 'interpreted' ? 1 : process.env['XLLM_TEST_FULL'] ? 60 : 8;
      let machine: { free(): void } | undefined;
      afterEach(() => {
        machine?.free();
        machine = undefined;
      });
      const load = <Name extends string>(code: MachineCode, layout: OpLayout<Name>): RowMachine<Name> => {
        machine?.free();
        const loaded = new RowMachine(code, layout, how);
        machine = loaded;
        return loaded;
      };

      it('norms: records, floats, both, and added', async () => {
        const random = seeded(1);
        for (let round = 0; round < 3 * numRounds; round++) {
          const record = pick(random, [null, plainRecord, fineRecord]);
          const kind = pick(random, ['rms', 'rms', 'layer'] as const);
          const floats = record
            ? pick(random, ['none', 'written'] as const)
            : kind === 'rms'
              ? pick(random, ['written', 'added'] as const)
              : 'written';
          const D = record ? 32 * integer(random, 1, 70) : 16 * integer(random, 1, 140);
          const [M, eps] = [integer(random, 1, 9), pick(random, [1e-6, 1e-5])];
          const on = load(emitNorm({ isa, kind, numFeatures: D, eps, record, floats }), normOp);
          const rows = activations(random, M, D);
          const [w, b] = [numbers(random, D), numbers(random, D)];
          const before = Array.from({ length: M }, () => numbers(random, D));
          const x = on.matrix(rows, integer(random, 0, 3));
          const out = on.matrix(before, integer(random, 0, 3));
          const records = record ? on.operand(recordsBytes(record, M, D)) : on.operand(0);
          await on.call(
            M,
            {
              x: x.address,
              xRowBytes: x.rowBytes,
              weight: on.floats(w).address,
              bias: on.floats(b).address,
              records: records.address,
              out: out.address,
              outRowBytes: out.rowBytes,
            },
            integer(random, 1, 3),
          );
          const normed = rows.map((row) =>
            kind === 'rms' ? rmsNorm(row, w, eps) : { scaled: layerNorm(row, w, b, eps), factor: 1 },
          );
          const where = `${kind} [${M}, ${D}] ${record?.bytes} ${floats}`;
          if (record) {
            const factors = normed.map(({ factor }) => factor);
            const all = joined(normed.map(({ scaled }) => scaled));
            expect(records.bytes, where).toEqual(recordsOf(record, all, D, factors));
          }
          for (const [m, { scaled, factor }] of normed.entries()) {
            const old = before[m]!;
            const wanted = {
              none: old,
              written: scaled.map((value) => value * factor),
              added: scaled.map((value, i) => fma32(value, factor, old[i]!)),
            }[floats];
            expect(out.row(m), where).toEqual(wanted);
          }
        }
      });

      it('quantise: plain and fine records', async () => {
        const random = seeded(2);
        for (let round = 0; round < 2 * numRounds; round++) {
          const record = pick(random, [plainRecord, fineRecord]);
          const [M, K] = [integer(random, 1, 9), 32 * integer(random, 1, 90)];
          const on = load(emitQuantise({ isa, numFeatures: K, record }), quantiseOp);
          const rows = activations(random, M, K);
          const x = on.matrix(rows, integer(random, 0, 3));
          const records = on.operand(recordsBytes(record, M, K));
          const values = { x: x.address, xRowBytes: x.rowBytes, records: records.address };
          await on.call(M, values, integer(random, 1, 3));
          expect(records.bytes, `[${M}, ${K}] ${record.bytes}`).toEqual(recordsOf(record, joined(rows), K));
        }
      });

      it('gate: both activations, records and floats, side by side and apart', async () => {
        const random = seeded(3);
        for (let round = 0; round < 2 * numRounds; round++) {
          const record = pick(random, [null, plainRecord, fineRecord]);
          const activation = pick(random, ['silu', 'gelu_tanh'] as const);
          const [M, F] = [integer(random, 1, 6), 32 * integer(random, 1, round === 0 ? 150 : 40)];
          const on = load(emitGate({ isa, activation, numFeatures: F, record }), gateOp);
          const both = activations(random, M, 2 * F);
          const isSideBySide = random() < 0.5;
          const gates = both.map((row) => row.subarray(0, F));
          const ups = both.map((row) => row.subarray(F));
          const all = on.matrix(both, integer(random, 0, 3));
          const gate = isSideBySide ? all : on.matrix(gates, 1);
          const up = isSideBySide ? { address: all.address + 4 * F, rowBytes: all.rowBytes } : on.matrix(ups, 2);
          const out = on.matrix(ups, 3);
          const records = record ? on.operand(recordsBytes(record, M, F)) : on.operand(0);
          await on.call(
            M,
            {
              gate: gate.address,
              gateRowBytes: gate.rowBytes,
              up: up.address,
              upRowBytes: up.rowBytes,
              out: record ? records.address : out.address,
              outRowBytes: record ? 0 : out.rowBytes,
            },
            integer(random, 1, 3),
          );
          const wanted = gates.map((row, m) => row.map((value, i) => activate(value, activation) * ups[m]![i]!));
          const where = `${activation} [${M}, ${F}] ${record?.bytes}`;
          if (record) expect(records.bytes, where).toEqual(recordsOf(record, joined(wanted), F));
          else for (const [m, row] of wanted.entries()) expect(out.row(m), where).toEqual(row);
        }
      });

      it('gate: NaN stays, infinities and extremes have their limits', async () => {
        for (const activation of ['silu', 'gelu_tanh'] as const) {
          const on = load(emitGate({ isa, activation, numFeatures: 32, record: null }), gateOp);
          const special = [
            Number.NaN,
            Number.POSITIVE_INFINITY,
            Number.NEGATIVE_INFINITY,
            3e38,
            -3e38,
            0,
            1e-30,
            -1e-30,
            1e4,
          ];
          const x = on.matrix([Float32Array.from({ length: 32 }, (_, i) => special[i] ?? -i)], 0);
          const up = on.matrix([new Float32Array(32).fill(1)], 0);
          const out = on.matrix([new Float32Array(32)], 0);
          const values = {
            gate: x.address,
            gateRowBytes: 0,
            up: up.address,
            upRowBytes: 0,
            out: out.address,
            outRowBytes: 0,
          };
          await on.call(1, values, 1);
          const y = out.row(0);
          expect(y).toEqual(x.row(0).map((value) => activate(value, activation)));
          expect([...y.subarray(0, 2)]).toEqual([Number.NaN, Number.POSITIVE_INFINITY]);
          expect(y[3]).toBe(Math.fround(3e38));
          for (const i of [2, 4]) expect(Math.abs(y[i]!)).toBeLessThan(1e-34);
          expect(y[8]).toBe(1e4);
        }
      });

      it('rope: both pairings, partial, with norms of heads, q and k together or apart', async () => {
        const random = seeded(4);
        for (let round = 0; round < 4 * numRounds; round++) {
          const K = pick(random, [16, 32, 48, 64, 80, 96, 112, 128, 192, 256]);
          const rotaryDim = random() < 0.7 ? K : 16 * integer(random, 1, K / 16);
          const pairs = pick(random, ['adjacent', 'halves'] as const);
          const [H, G, M] = [integer(random, 1, 6), integer(random, 1, 3), integer(random, 1, 5)];
          const headNormEps = random() < 0.4 ? 1e-6 : null;
          const on = load(
            emitRope({ isa, numHeads: H, numKvHeads: G, headDim: K, rotaryDim, pairs, headNormEps }),
            ropeOp,
          );
          const isTogether = random() < 0.5;
          const rows = Array.from({ length: M }, () => numbers(random, (H + 2 * G) * K, 3));
          const qkv = on.matrix(rows, integer(random, 0, 2));
          const keys = on.matrix(
            rows.map((row) => row.subarray(H * K)),
            1,
          );
          const positions = Array.from({ length: M }, () => integer(random, 0, 50));
          const table = on.operand(51 * 4 * rotaryDim);
          const frequencies = { base: 10_000, rotaryDim, frequencyFactors: null, attnFactor: 1.5 };
          fillRopeTable(table.floats, 0, 20, frequencies);
          fillRopeTable(table.floats, 20, 51, frequencies);
          const weights = { q: numbers(random, K), k: numbers(random, K) };
          await on.call(
            M,
            {
              q: qkv.address,
              qRowBytes: qkv.rowBytes,
              k: isTogether ? qkv.address + 4 * H * K : keys.address,
              kRowBytes: isTogether ? qkv.rowBytes : keys.rowBytes,
              positions: on.ints(positions).address,
              table: table.address,
              qNorm: on.floats(weights.q).address,
              kNorm: on.floats(weights.k).address,
            },
            integer(random, 1, 3),
          );
          for (const [m, row] of rows.entries()) {
            const got = qkv.row(m);
            if (!isTogether) got.set(keys.row(m), H * K);
            const wanted = row.slice();
            const rotations = table.floats.subarray(positions[m]! * rotaryDim, (positions[m]! + 1) * rotaryDim);
            for (let h = 0; h < H + G; h++) {
              const w = h < H ? weights.q : weights.k;
              const norm = headNormEps === null ? null : { weights: w, eps: headNormEps };
              wanted.set(ropeHead(row.subarray(h * K, (h + 1) * K), { pairs, rotaryDim, rotations, norm }), h * K);
            }
            expect(got, `${pairs} ${K} ${rotaryDim} ${headNormEps}`).toEqual(wanted);
          }
        }
      });

      it('gather: one matrix or two', async () => {
        const random = seeded(5);
        for (let round = 0; round < numRounds; round++) {
          const width = () => 16 * integer(random, 1, 60);
          const widths = random() < 0.5 ? ([width()] as const) : ([width(), width()] as const);
          const on = load(emitGather({ isa, widths }), gatherOp);
          const [numRows, M] = [integer(random, 1, 12), integer(random, 1, 7)];
          const indices = Array.from({ length: M }, () => integer(random, 0, numRows - 1));
          const sources = widths.map((w) => on.matrix(activations(random, numRows, w), integer(random, 0, 3)));
          const targets = widths.map((w) => on.matrix(activations(random, M, w), integer(random, 0, 3)));
          const [x, second = x] = sources as [(typeof sources)[0], (typeof sources)[0]?];
          const [out, secondOut = out] = targets as [(typeof sources)[0], (typeof sources)[0]?];
          await on.call(
            M,
            {
              indices: on.ints(indices).address,
              x: x.address,
              xRowBytes: x.rowBytes,
              out: out.address,
              outRowBytes: out.rowBytes,
              secondX: second.address,
              secondXRowBytes: second.rowBytes,
              secondOut: secondOut.address,
              secondOutRowBytes: secondOut.rowBytes,
            },
            integer(random, 1, 3),
          );
          for (const [i, target] of targets.entries())
            for (const [m, index] of indices.entries()) expect(target.row(m)).toEqual(sources[i]!.row(index));
        }
      });

      it.each(packedFormats)('embed: %s, packed for products or as rows, tokens of the step before', async (format) => {
        const random = seeded(7);
        const layout = layoutOf(format);
        for (let round = 0; round < 3; round++) {
          const [V, M] = [integer(random, 1, 70), integer(random, 1, 9)];
          const D =
            'headerBytes' in layout && layout.headerBytes > 0
              ? 256 * integer(random, 1, 3)
              : 32 * integer(random, 1, 20);
          const scale = pick(random, [1, 24.5]);
          const source = randomRows(format, V, D, random);
          const isPlain = layout.kind === 'float' && round === 0;
          const table = isPlain ? ({ kind: 'rows', format: layout.format } as const) : layout;
          const on = load(emitEmbed({ isa, numFeatures: D, table, scale }), embedOp);
          const packed = new Uint8Array(packedBytes(layout, V, D));
          packRows(layout, source, D, packed, 0);
          const memory = on.operand((isPlain ? source : packed).length);
          memory.bytes.set(isPlain ? source : packed);
          const wanted = Array.from({ length: M }, () => integer(random, 0, V - 1));
          const sampled = on.ints([9, 9, 9, 9, 9, 9]);
          sampled.ints[3] = wanted[0]!;
          const out = on.matrix(
            Array.from({ length: M }, () => new Float32Array(D)),
            integer(random, 0, 3),
          );
          const values = {
            tokens: on.ints([-2, ...wanted.slice(1)]).address,
            sampled: sampled.address,
            sampledBytes: 12,
            table: memory.address,
            out: out.address,
            outRowBytes: out.rowBytes,
          };
          await on.call(M, values, integer(random, 1, 3));
          for (const [m, token] of wanted.entries())
            expect(out.row(m), `[${V}, ${D}]`).toEqual(
              unpackRow(layout, packed, D, token).map((value) => value * scale),
            );
        }
      });

      it('gives a row the same bits in any batch, and cuts one row into one piece', async () => {
        const [M, K] = [70, 576];
        const random = seeded(6);
        const on = load(emitQuantise({ isa, numFeatures: K, record: plainRecord }), quantiseOp);
        const rows = activations(random, M, K);
        const x = on.matrix(rows, 0);
        const records = on.operand(recordsBytes(plainRecord, M, K));
        const values = { x: x.address, xRowBytes: x.rowBytes, records: records.address };
        expect(await on.call(M, values, 2)).toBeGreaterThan(4);
        const all = records.bytes.slice();
        const rowBytes = recordsBytes(plainRecord, 1, K);
        for (const m of [0, 7, 69]) {
          const one = on.operand(recordsBytes(plainRecord, 1, K));
          const alone = { x: x.address + m * x.rowBytes, xRowBytes: x.rowBytes, records: one.address };
          expect(await on.call(1, alone, 2)).toBe(1);
          expect(one.bytes).toEqual(all.slice(m * rowBytes, (m + 1) * rowBytes));
        }
        expect(await on.call(0, values, 2)).toBe(0);
      });
    },
  );
});

it('refuses what it cannot do', () => {
  const norm = { isa: 'avx2', kind: 'rms', eps: 1e-6, record: plainRecord, floats: 'none', numFeatures: 48 } as const;
  expect(normObstacle(norm)).toMatch(/48 floats are not whole blocks/);
  expect(normObstacle({ ...norm, record: null, floats: 'written' })).toBeNull();
  expect(normObstacle({ ...norm, numFeatures: 64, floats: 'added' })).toMatch(/not quantised/);
  const rope = { isa: 'avx2', numHeads: 1, numKvHeads: 1, headDim: 64, rotaryDim: 64, pairs: 'halves' } as const;
  expect(ropeObstacle({ ...rope, headNormEps: null })).toBeNull();
  expect(ropeObstacle({ ...rope, headDim: 72, headNormEps: null })).toMatch(/72/);
  expect(ropeObstacle({ ...rope, rotaryDim: 24, headNormEps: null })).toMatch(/24/);
});

it('the activations are as exact as floats allow', () => {
  const exact = {
    silu: (x: number) => x / (1 + Math.exp(-x)),
    gelu_tanh: (x: number) => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  };
  for (const activation of ['silu', 'gelu_tanh'] as const) {
    for (let i = -40_000; i <= 40_000; i++) {
      const x = Math.fround((i / 40_000) * 9);
      const [got, wanted] = [activate(x, activation), exact[activation](x)];
      // 2e-7 of the result; for gelu's negative tail of x, where the exponent itself is rounded.
      expect(Math.abs(got - wanted)).toBeLessThanOrEqual(2e-7 * Math.abs(activation === 'silu' || x > 0 ? wanted : x));
    }
  }
});
