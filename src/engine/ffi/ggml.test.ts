// The bindings: versions, conversions, and threads that sleep when there is nothing to do.
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { Graph } from '../tensor/graph.ts';
import { ComputePool } from '../tensor/compute.ts';
import { multiply } from '../tensor/ops.ts';
import { openGgml } from './ggml.ts';
import { loadGgmlLibraries } from './ggml-library.ts';
import { allocateNative } from './memory.ts';

it('opens the pinned version once', () => {
  const ggml = openGgml();
  expect(ggml.version).toBe('0.25.1');
  expect(ggml.variant).toMatch(/^[a-z0-9._]+$/);
  expect(openGgml()).toBe(ggml);
});

it('names a variant that is not there', () => {
  expect(() => loadGgmlLibraries('nonesuch')).toThrow(/cannot load .*libggml-cpu-nonesuch\.so/);
});

it('converts to a block format and back', () => {
  const ggml = openGgml();
  const values = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
  const packed = new Uint8Array(68);
  ggml.quantizeRows(8, values, packed, 2, 32);
  const back = new Float32Array(64);
  ggml.dequantizeRow(8, packed, back);
  for (const [i, value] of values.entries()) expect(Math.abs(back[i]! - value)).toBeLessThan(0.005);
});

it('uses next to no CPU while idle after a graph', async () => {
  const ggml = openGgml();
  const pool = new ComputePool(ggml, { numThreads: 2, polls: true });
  const memory = allocateNative(3 * 64 * 64 * 4);
  const g = new Graph(ggml, 8);
  const w = g.leaf('F32', [64, 64], memory.address);
  const placed = g.finish([multiply(g, g.leaf('F32', [64, 64], memory.address + 16_384), w)]);
  placed.place(memory.address + 32_768);
  await pool.run(g.handle, pool.workBytes(g.handle));
  // Spinning may go on for a while: until it ends, look again, as long as the test may take.
  let share = 1;
  for (let round = 0; round < 60 && share > 0.02; round++) {
    const before = process.cpuUsage();
    const startMs = performance.now();
    await sleep(500);
    const { user, system } = process.cpuUsage(before);
    share = (user + system) / 1_000 / (performance.now() - startMs);
  }
  pool.close();
  placed.free();
  memory.free();
  expect(share).toBeLessThanOrEqual(0.02);
});
