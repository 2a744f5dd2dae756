// Pieces: every byte of the weights is written once, every row read once, and packing by pieces is packing the whole.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { TensorInfo } from '../../files/weights-file.ts';
import { bytesOf, type TensorType } from '../tensor/dtype.ts';
import { forProducts, type Packing } from '../tensor/packing.ts';
import { createPieceTools, preparePiece } from './prepare-piece.ts';
import { planWeightMemory, type WeightRequest } from './weight-plan.ts';

function tensor(name: string, dtype: TensorType, shape: number[]): TensorInfo {
  const numElements = shape.reduce((a, b) => a * b, 1);
  return { name, dtype, shape, numElements, numBytes: bytesOf(dtype, numElements), fileIndex: 0, byteOffset: 0 };
}

function packingFor(format: TensorType, isGated: boolean): Packing {
  const packing = forProducts(format, isGated);
  if (!packing) throw new Error(`no products take ${format}`);
  return packing;
}

const tools = createPieceTools(() => {
  throw new Error('nothing is converted');
});

const stacks = fc.record({
  format: fc.constantFrom('Q4_0', 'Q4_1', 'Q8_0'),
  isGated: fc.boolean(),
  rows: fc.array(fc.integer({ min: 1, max: 150 }), { minLength: 1, maxLength: 3 }),
  // Long rows, so that a matrix is more than one piece.
  blocks: fc.integer({ min: 1, max: 300 }),
});

describe('planWeightMemory', () => {
  it('packs by pieces as in one', () => {
    fc.assert(
      fc.property(stacks, fc.integer(), ({ format, isGated, rows: someRows, blocks }, seed) => {
        const K = 32 * blocks;
        // A gated pair has as many rows of either.
        const rows = isGated ? [someRows[0]!, someRows[0]!] : someRows;
        const packing = packingFor(format, isGated);
        const sources = rows.map((count, i) => tensor(`m${i}`, format, [count, K]));
        const contents = sources.map(({ numBytes }, i) => {
          const bytes = new Uint8Array(numBytes);
          for (let at = 0; at < numBytes; at++) bytes[at] = (at * 31 + i * 7 + seed) >> 2;
          return bytes;
        });
        const plan = planWeightMemory([{ sources, target: format, add: 0, packing }]);
        const memory = new Uint8Array(plan.numBytes);
        for (const piece of plan.pieces) {
          const inputs = piece.ranges.map(({ tensor: { name }, offset, numBytes }) =>
            contents[Number(name.slice(1))]!.subarray(offset, offset + numBytes),
          );
          const input = Uint8Array.from(Buffer.concat(inputs));
          preparePiece(piece, input, memory.subarray(piece.offset, piece.offset + piece.numBytes), tools);
        }
        const numRows = rows.reduce((a, b) => a + b, 0);
        const whole = new Uint8Array(plan.numBytes);
        let above = 0;
        for (const [i, bytes] of contents.entries()) {
          packing.pack(bytes, K, whole, isGated ? 0 : above, isGated ? (i === 0 ? 'gate' : 'up') : 'plain');
          above += rows[i]!;
        }
        expect(Buffer.compare(memory, whole)).toBe(0);
        expect(plan.pieces.reduce((sum, piece) => sum + piece.numRows, 0)).toBe(numRows);
      }),
      { numRuns: process.env['XLLM_TEST_FULL'] ? 100 : 10 },
    );
  });

  it('leaves no byte out and writes none twice', () => {
    const packing = packingFor('Q8_0', false);
    const plain = (sources: TensorInfo[], target: TensorType, add = 0): WeightRequest => {
      return { sources, target, add, packing: null };
    };
    const { pieces, weights, numBytes } = planWeightMemory([
      plain([tensor('norm', 'F32', [100])], 'F32'),
      plain([tensor('shifted', 'F32', [600_000])], 'F32', 1),
      plain([tensor('embedding', 'Q8_0', [40_000, 64])], 'Q8_0'),
      plain([tensor('a', 'BF16', [3_000, 320]), tensor('b', 'BF16', [50, 320])], 'F32'),
      { sources: [tensor('m', 'Q8_0', [5_000, 320])], target: 'Q8_0', add: 0, packing },
    ]);
    let end = 0;
    for (const piece of pieces.toSorted((a, b) => a.offset - b.offset)) {
      expect(piece.offset - end).toBeGreaterThanOrEqual(0);
      expect(piece.offset - end).toBeLessThan(64);
      end = piece.offset + piece.numBytes;
    }
    expect(numBytes - end).toBeLessThan(64);
    expect(weights.map(({ offset }) => offset % 64)).toEqual([0, 0, 0, 0, 0]);
    const read = new Map<string, number>();
    for (const range of pieces.flatMap(({ ranges }) => ranges)) {
      expect(range.offset).toBe(read.get(range.tensor.name) ?? 0);
      read.set(range.tensor.name, range.offset + range.numBytes);
    }
    expect([...read.values()]).toEqual([400, 2_400_000, 2_720_000, 1_920_000, 32_000, 1_700_000]);
  });
});
