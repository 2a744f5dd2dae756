// The KV write on its own: where values land, what they become, and what stays untouched.
import { describe, expect, test } from 'vitest';
import { type Isa, supportedIsas } from '../cpu-features.ts';
import { checkShape, type KvShape, stepBlockBytes, countStep, writeStepBlock } from './abi.ts';
import { cachedValue } from './kv-write.ref.ts';
import { type Execution, KvMachine } from './testing/kv-machine.ts';

const shape: KvShape = {
  numHeads: 4,
  numKvHeads: 2,
  headDim: 32,
  blockTokens: 16,
  element: 'f16',
  hasSoftCap: false,
};
const layer = { scale: 1, softCap: null, window: null };

/** Every way to run a kernel of this ISA here. */
const executions = (isa: Isa): Execution[] =>
  supportedIsas().includes(isa) ? ['native', 'interpreted'] : ['interpreted'];

describe.each(['avx2', 'avx512'] as const)('%s', (isa) => {
  test.each(executions(isa))('%s: values land in their pages, rounded and clamped', (execution) => {
    for (const element of ['f16', 'f32'] as const) {
      const machine = new KvMachine({ ...shape, element }, isa, layer, 4, execution);
      const numTokens = 3;
      const [keys, values] = [machine.matrix(numTokens, 2, 7), machine.matrix(numTokens, 2, 7)];
      const special = [1e6, -1e6, 65520, 1 + 2 ** -11, 2 ** -25, -0, Number.POSITIVE_INFINITY, Number.NaN];
      for (const { values: all } of [keys, values]) all.forEach((_, i) => (all[i] = special[i % 11] ?? i * 0.37));
      // Positions 15 to 17: two blocks, pages 2 and 1.
      const segments = machine.segments([2, 1], 0, 15 + numTokens);
      const queries = machine.matrix(numTokens, 4);
      machine.step([{ firstPosition: 15, numTokens, segments }], { queries, keys, values, out: queries.rows });
      const before = machine.poolBytes();
      for (let thread = 0; thread < 2; thread++) machine.kvWrite(machine.kvWriteOp, thread, 2);
      expect(machine.finished(machine.kvWriteOp)).toBe(BigInt(numTokens));

      const expected = before.slice();
      const target = element === 'f16' ? new Float16Array(expected.buffer) : new Float32Array(expected.buffer);
      for (let token = 0; token < numTokens; token++) {
        const position = 15 + token;
        const page = position < 16 ? 2 : 1;
        for (const [part, source] of [keys, values].entries()) {
          for (let head = 0; head < 2; head++) {
            const elements = machine.pageBytes / target.BYTES_PER_ELEMENT;
            // The machine's layer is the second in the page.
            const row = ((2 * 2 + part * 2 + head) * 16 + (position % 16)) * 32;
            for (let d = 0; d < 32; d++) {
              const value = source.values[source.index(token, head) + d] ?? 0;
              target[page * elements + row + d] = cachedValue(value, element);
            }
          }
        }
      }
      const actual = machine.poolBytes();
      const view = (bytes: Uint8Array) =>
        element === 'f16' ? new Float16Array(bytes.buffer) : new Float32Array(bytes.buffer);
      expect(Array.from(view(actual))).toEqual(Array.from(view(expected)));
      expect(
        actual.every(
          (byte, i) => byte === expected[i] || Number.isNaN(view(expected)[i >> (element === 'f16' ? 1 : 2)]),
        ),
      ).toBe(true);
      machine.free();
    }
  });
});

test('a step block needs segments without gaps that reach the last token', () => {
  const write = (segments: readonly { address: number; firstPosition: number; numTokens: number }[]) => {
    const rows = [{ firstPosition: 20, numTokens: 5, segments }];
    const buffer = new ArrayBuffer(stepBlockBytes(countStep(shape, rows, 8)));
    writeStepBlock(buffer, 0, shape, 8192, rows, 8);
  };
  const segment = (firstPosition: number, numTokens: number) => ({ address: 4096, firstPosition, numTokens });
  expect(() => write([segment(0, 16), segment(16, 9)])).not.toThrow();
  expect(() => write([segment(16, 9)])).not.toThrow();
  expect(() => write([segment(0, 24)])).toThrow(/end at position 24/);
  expect(() => write([segment(0, 16), segment(32, 9)])).toThrow(/leave out position 16/);
  expect(() => write([segment(0, 8), segment(8, 17)])).toThrow(/inside a block/);
  expect(() => write([segment(32, 9)])).toThrow(/start at position 32/);
  expect(() => write([])).toThrow(/end at position 0/);
});

test('shapes that kernels cannot take are refused by name', () => {
  expect(() => checkShape({ ...shape, headDim: 40 })).toThrow(/head dim 40/);
  expect(() => checkShape({ ...shape, numHeads: 5 })).toThrow(/5 heads/);
  expect(() => checkShape({ ...shape, blockTokens: 24 })).toThrow(/24 tokens/);
});
