// The program loop: every piece of every op is done once, in the order of ops, with any number of threads; an abort ends it.
import { expect, test } from 'vitest';
import { openGgml } from '../../ffi/ggml.ts';
import { allocateNative } from '../../ffi/memory.ts';
import { ComputePool } from '../../tensor/compute.ts';
import { Graph } from '../../tensor/graph.ts';
import { custom } from '../../tensor/ops.ts';
import { loadCode } from '../asm/exec-memory.ts';
import { mem } from '../asm/operands.ts';
import { rax } from '../asm/registers.ts';
import { emitOp, OP_FIELDS, OpBlock, opField } from './op.ts';
import { emitProgram, programBytes, writeProgram } from './program.ts';

const NUM_OPS = 40;
const ROWS = 13;
const BLOCK_BYTES = 192;

/** Piece p of an op: target[p] = 2 * source[p] + 1. Wrong when the op before is not done. */
const kernel = emitOp(
  'double_and_add',
  ({ a, numRows }) => a.mov(rax, numRows),
  ({ a, f, op }) => {
    const [source, target, value] = [f.gpr(), f.gpr(), f.gpr()];
    const piece = f.gpr();
    a.mov(piece, rax);
    a.mov(source, mem(op, OP_FIELDS));
    a.mov(target, mem(op, OP_FIELDS + 8));
    a.mov(value, mem(source, 0, { index: piece, scale: 8 }));
    a.lea(value, mem(value, 1, { index: value }));
    a.mov(mem(target, 0, { index: piece, scale: 8 }), value);
    f.release(source, target, value, piece);
  },
);

test.each([1, 2, 3, 8])('%i threads', (numThreads) => {
  const ggml = openGgml();
  const code = loadCode([emitProgram(), kernel]);
  const [program, double] = code.addresses as [number, number];
  const blocks = allocateNative(NUM_OPS * BLOCK_BYTES);
  const values = allocateNative((NUM_OPS + 1) * ROWS * 8);
  const words = allocateNative(16 + (NUM_OPS + 1) * 8);
  const table = allocateNative(programBytes(NUM_OPS));
  const [abort, rows] = [words.address, words.address + 8];
  const view = new DataView(words.buffer);
  view.setBigInt64(8, BigInt(ROWS), true);
  const ops = Array.from({ length: NUM_OPS }, (_, i) => {
    const block = new OpBlock(blocks.buffer, i * BLOCK_BYTES, BLOCK_BYTES);
    block.set(opField.rows, rows);
    block.set(OP_FIELDS, values.address + i * ROWS * 8);
    block.set(OP_FIELDS + 8, values.address + (i + 1) * ROWS * 8);
    return { kernel: double, block: blocks.address + i * BLOCK_BYTES };
  });
  writeProgram(table.buffer, ops, { abort, stamps: words.address + 16 });
  const g = new Graph(ggml, 4);
  const graph = g.finish([custom(g, 'I32', [1], [], program, table.address)]);
  const arena = allocateNative(graph.numBytes);
  graph.place(arena.address);
  const pool = new ComputePool(ggml, { numThreads, polls: false });
  const counters = new BigInt64Array(blocks.buffer);
  const results = new BigInt64Array(values.buffer);
  const run = () => {
    for (let i = 0; i < NUM_OPS; i++) {
      counters[(i * BLOCK_BYTES + opField.claimed) / 8] = 0n;
      counters[(i * BLOCK_BYTES + opField.finished) / 8] = 0n;
    }
    pool.runSync(g.handle);
  };
  for (let round = 0; round < 50; round++) {
    results.fill(0n);
    run();
    const last = [...results.subarray(NUM_OPS * ROWS, (NUM_OPS + 1) * ROWS)];
    expect(last).toEqual(last.map(() => 2n ** BigInt(NUM_OPS) - 1n));
  }
  const stamps = new BigInt64Array(words.buffer, 16, NUM_OPS + 1);
  expect(stamps.every((stamp, i) => i === 0 || stamp >= stamps[i - 1]!)).toBe(true);
  expect(stamps[0]).toBeGreaterThan(0n);

  view.setInt32(0, 1, true);
  results.fill(7n);
  run();
  expect(results.every((value) => value === 7n)).toBe(true);
  pool.close();
  graph.free();
  for (const memory of [blocks, values, words, table, arena]) memory.free();
  code.free();
});
