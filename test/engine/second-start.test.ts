// A second start of a model packs nothing and takes at most a fifth of the first one's CPU time; a first one needs little memory.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, expect, test } from 'vitest';
import { modelShapes } from '../../src/files/model-shapes.ts';
import { resolveModel } from '../../src/files/resolve/resolve-model.ts';
import { modelSettings } from '../../src/files/resolve/settings.ts';
import { synthesiseModel } from '../../src/files/synthesise.ts';

const folder = mkdtempSync(join(tmpdir(), 'xllm-second-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface Start {
  readonly source: 'cache' | 'file';
  readonly numRowsPacked: number;
  readonly cpuMs: number;
  readonly numBytes: number;
  readonly peakBytes: number;
}

/** In a process of its own, so that CPU time and memory are the start's. */
async function start(path: string, cache: string): Promise<Start> {
  const args = [fileURLToPath(new URL('./load-weights-child.ts', import.meta.url)), path, cache, 'auto'];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  return JSON.parse(stdout) as Start;
}

async function expectQuickSecondStart(path: string): Promise<void> {
  const cache = join(folder, 'cache');
  const first = await start(path, cache);
  const seconds = [await start(path, cache), await start(path, cache)];
  expect(first.source).toBe('file');
  expect(first.numRowsPacked).toBeGreaterThan(0);
  expect(seconds).toMatchObject([
    { source: 'cache', numRowsPacked: 0 },
    { source: 'cache', numRowsPacked: 0 },
  ]);
  const cpuMs = Math.min(...seconds.map((second) => second.cpuMs));
  console.log(
    `first ${first.cpuMs.toFixed(0)} ms of CPU, second ${cpuMs.toFixed(0)}; peak ${(first.peakBytes / first.numBytes).toFixed(2)} of ${(first.numBytes / 1e6).toFixed(0)} MB`,
  );
  expect(cpuMs).toBeLessThan(first.cpuMs / 5);
  // 96 MB: the threads and what they hold, whatever the model's size.
  expect(first.peakBytes).toBeLessThan(1.15 * first.numBytes + 96e6);
}

test('the default model', async () => {
  const { path } = await resolveModel(undefined, { settings: modelSettings(process.env) });
  await expectQuickSecondStart(path);
});

// Twice 2 GB on disk.
test.runIf(process.env['XLLM_TEST_FULL'])(
  '1.7 billion parameters in Q8_0',
  async () => {
    const path = join(folder, 'model.gguf');
    const shape = modelShapes['qwen3-1.7b']!;
    await synthesiseModel({ name: 'qwen3-1.7b', shape, dtype: 'Q8_0', path, seed: 0 });
    await expectQuickSecondStart(path);
  },
  600_000,
);
