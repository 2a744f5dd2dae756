// The team: every piece of every op is done once, in the order of ops, with any number of threads, however late they
// come; an abort ends a step between ops.
import { expect, test } from 'vitest';
import { allocateNative } from '../ffi/memory.ts';
import { mem } from '../jit/asm/operands.ts';
import { rax } from '../jit/asm/registers.ts';
import { emitOp, OP_FIELDS, OpBlock, ROWS_BYTES, rowsField } from '../jit/kernels/op.ts';
import { buildPrograms, type OpSpec } from './program-builder.ts';
import { ThreadTeam } from './thread-team.ts';

const ROWS = 13;
const BLOCK_BYTES = 192;

/** Piece p of an op: target[p] = 2 * source[p] + 1. Wrong when the op before is not done. */
const doubleAndAdd = () =>
  emitOp(
    'double_and_add',
    ({ a, numRows }) => a.mov(rax, numRows),
    ({ a, f, op }) => {
      const [source, target, value, piece] = [f.gpr(), f.gpr(), f.gpr(), f.gpr()];
      a.mov(piece, rax);
      a.mov(source, mem(op, OP_FIELDS));
      a.mov(target, mem(op, OP_FIELDS + 8));
      a.mov(value, mem(source, 0, { index: piece, scale: 8 }));
      a.lea(value, mem(value, 1, { index: value }));
      a.mov(mem(target, 0, { index: piece, scale: 8 }), value);
      f.release(source, target, value, piece);
    },
  );

/** `numOps` ops, one after the other; `results` views what each left. */
function chain(numOps: number) {
  const values = allocateNative((numOps + 1) * ROWS * 8);
  const rows = allocateNative(ROWS_BYTES);
  new BigInt64Array(rows.buffer)[0] = BigInt(ROWS);
  const specs = Array.from(
    { length: numOps },
    (_, i): OpSpec => ({
      kernel: 'double_and_add',
      emit: doubleAndAdd,
      label: `op ${i}`,
      rows: rows.address,
      blockBytes: BLOCK_BYTES,
      write: (buffer, byteOffset) => {
        const block = new OpBlock(buffer, byteOffset, BLOCK_BYTES);
        block.set(OP_FIELDS, values.address + i * ROWS * 8);
        block.set(OP_FIELDS + 8, values.address + (i + 1) * ROWS * 8);
      },
    }),
  );
  const set = buildPrograms([specs]);
  const [program] = set.programs;
  if (!program) throw new Error('one list, one program');
  const results = new BigInt64Array(values.buffer, 0, (numOps + 1) * ROWS);
  return {
    program,
    rows: new BigInt64Array(rows.buffer),
    /** Before each run. */
    begin: (generation: number) => {
      new BigInt64Array(rows.buffer)[rowsField.generation / 8] = BigInt(generation);
      program.reset();
    },
    results,
    last: () => [...results.subarray(numOps * ROWS)],
    free: () => {
      set.free();
      values.free();
      rows.free();
    },
  };
}

test.each([1, 2, 3, 8])('%i threads do every piece once, in order', (numThreads) => {
  const numOps = 40;
  const { program, begin, results, last, rows, free } = chain(numOps);
  const team = new ThreadTeam({ numThreads, polls: numThreads < 3 });
  const run = () => {
    begin(team.nextGeneration);
    team.runSync(program.address);
  };
  // More threads than cores: workers come late, and meet later steps than the one that woke them.
  for (let round = 0; round < 3000; round++) {
    results.fill(0n);
    run();
    expect(last()).toEqual(Array.from({ length: ROWS }, () => 2n ** BigInt(numOps) - 1n));
  }
  const stamps = program.stamps();
  run();
  expect(stamps[0]).toBeGreaterThan(0n);
  expect(stamps.every((stamp, i) => i === 0 || stamp >= stamps[i - 1]!)).toBe(true);

  rows[0] = 0n;
  results.fill(7n);
  run();
  expect(results.every((value) => value === 7n)).toBe(true);
  team.close();
  free();
});

test('an aborted step stops between ops and leaves no piece running', async () => {
  const numOps = 60_000;
  const { program, begin, results, free } = chain(numOps);
  const team = new ThreadTeam({ numThreads: 3, polls: true });
  let numStopped = 0;
  for (let round = 0; round < 20; round++) {
    results.fill(0n);
    begin(team.nextGeneration);
    const running = team.run(program.address);
    await new Promise((resolve) => setImmediate(resolve));
    program.abort();
    await running;
    const done = results.map((_, i) => results[i * ROWS] ?? 0n).findIndex((value, op) => op > 0 && value === 0n);
    if (done >= 0) numStopped++;
    const before = results.slice();
    await new Promise((resolve) => setTimeout(resolve, 2));
    expect(results).toEqual(before);
  }
  expect(numStopped).toBeGreaterThan(0);
  // The team is as good as new.
  results.fill(0n);
  begin(team.nextGeneration);
  await team.run(program.address);
  expect(results.at(-1)).not.toBe(0n);
  team.close();
  free();
});
