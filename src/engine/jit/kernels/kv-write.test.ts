// The KV write on its own: where values land, what they become, and what stays untouched.
import { describe, expect, test } from 'vitest';
import { type Isa, supportedIsas } from '../cpu-features.ts';
import { checkShape, type KvShape } from './abi.ts';
import { kvElementBytes } from './kv-element.ts';
import { cachedHead } from './kv-write.ref.ts';
import { countStep, stepBlockBytes, writeStepBlock } from './step-block.ts';
import { type Execution, KvMachine } from './testing/kv-machine.ts';

const shape: KvShape = {
  numHeads: 4,
  numKvHeads: 2,
  headDim: 32,
  blockTokens: 16,
  element: 'f16',
  hasSoftCap: false,
};
const layer = { scale: 1, softCap: null, window: null, sinks: null };

/** Every way to run a kernel of this ISA here. */
const executions = (isa: Isa): Execution[] =>
  supportedIsas().includes(isa) ? ['native', 'interpreted'] : ['interpreted'];

const reads: Readonly<Record<KvShape['element'], (view: DataView, at: number) => number>> = {
  f16: (view, at) => view.getFloat16(at, true),
  bf16: (view, at) => new Float32Array(Uint32Array.of(view.getUint16(at, true) << 16).buffer)[0]!,
  f32: (view, at) => view.getFloat32(at, true),
  int8: (view, at) => view.getInt8(at),
};

describe.each(['avx2', 'avx512'] as const)('%s', (isa) => {
  describe.each(executions(isa))('%s', (execution) => {
    test.each(Object.keys(reads) as KvShape['element'][])('%s lands in its place, rounded and limited', (element) => {
      const machine = new KvMachine({ ...shape, element }, isa, layer, 4, execution);
      const numTokens = 3;
      const [keys, values] = [machine.matrix(numTokens, 2, 7), machine.matrix(numTokens, 2, 7)];
      const special = [1e6, -1e6, 65520, 1 + 2 ** -11, 2 ** -25, -0, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38];
      const endless = [Number.POSITIVE_INFINITY, Number.NaN];
      for (const { values: all } of [keys, values]) {
        all.forEach((_, i) => (all[i] = (i % 3 === 0 && special[i % 11]) || Math.sin(i) * 8));
        for (const [i, value] of endless.entries()) all[keys.index(1, 1) + 5 + i] = value;
      }
      all0(keys.values, keys.index(2, 0));
      // Positions 15 to 17: two blocks, pages 2 and 1.
      const segments = machine.segments([2, 1], 0, 15 + numTokens);
      const queries = machine.matrix(numTokens, 4);
      machine.step([{ firstPosition: 15, numTokens, segments }], { queries, keys, values, out: queries.rows });
      const before = machine.poolBytes();
      for (let thread = 0; thread < 2; thread++) machine.kvWrite(machine.kvWriteOp, thread, 2);
      expect(machine.finished(machine.kvWriteOp)).toBe(1n);

      const actual = machine.poolBytes();
      const view = new DataView(actual.buffer);
      const bytes = kvElementBytes[element];
      const [tile, head] = [16 * 32 * bytes, 16 * 32 * bytes + (element === 'int8' ? 64 : 0)];
      for (let token = 0; token < numTokens; token++) {
        const lane = (15 + token) % 16;
        const page = machine.pageBytes * (15 + token < 16 ? 2 : 1);
        for (const [part, source] of [keys, values].entries()) {
          for (let h = 0; h < 2; h++) {
            // The machine's layer is the second in the page.
            const at = page + machine.layerBytes + (part * 2 + h) * head;
            const from = source.index(token, h);
            const wanted = cachedHead(source.values.subarray(from, from + 32), element);
            for (let d = 0; d < 32; d++) {
              const place = at + bytes * (part === 0 ? 16 * d + lane : 32 * lane + d);
              expect(reads[element](view, place)).toBe(wanted.elements[d]);
              before.set(actual.subarray(place, place + bytes), place);
            }
            if (element !== 'int8') continue;
            const place = at + tile + 4 * lane;
            expect(view.getFloat32(place, true)).toBe(wanted.scale);
            before.set(actual.subarray(place, place + 4), place);
          }
        }
      }
      // Nothing else was touched.
      expect(Buffer.compare(actual, before)).toBe(0);
      machine.free();
    });
  });
});

/** A head of zeros: its scale must be a number still. */
const all0 = (values: Float32Array, at: number): void => void values.fill(0, at, at + 32);

test('a step block needs segments without gaps that reach the last token', () => {
  const write = (segments: readonly { address: number; firstPosition: number; numTokens: number }[]) => {
    const rows = [{ firstPosition: 20, numTokens: 5, segments }];
    const buffer = new ArrayBuffer(stepBlockBytes(countStep(shape, rows)));
    writeStepBlock(buffer, 0, shape, 8192, rows);
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
