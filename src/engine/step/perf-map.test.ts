// What perf is told of emitted code: every kernel of a model's programs and of the thread team, where it lies.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { viewMemory } from '../ffi/koffi.ts';
import { canExecute } from '../jit/asm/exec-memory.ts';
import { supportedIsas } from '../jit/cpu-features.ts';
import { perfMapPath, writePerfMap } from '../jit/perf-map.ts';
import { ProgramExecutor } from './program-executor.ts';
import { ModelRunner } from './testing/model-runner.ts';

const tinyLlama = join(import.meta.dirname, '../../../test/fixtures/golden/llama');
const canRun = canExecute().ok && supportedIsas().length > 0;

it.runIf(canRun)('names every kernel once, by addresses that hold its code and do not overlap', async () => {
  const runner = await ModelRunner.open(tinyLlama, { dtype: 'auto' });
  try {
    const { executor } = runner;
    if (!(executor instanceof ProgramExecutor)) throw new Error('kernels are emitted here');
    const remove = writePerfMap(executor.kernels);
    const lines = readFileSync(perfMapPath(), 'utf8').trimEnd().split('\n');
    remove();
    expect(existsSync(perfMapPath())).toBe(false);

    const ranges = lines.map((line) => {
      const [, start, size, name] = /^([0-9a-f]+) ([0-9a-f]+) (.+)$/.exec(line) ?? [];
      return { start: Number.parseInt(start ?? '', 16), size: Number.parseInt(size ?? '', 16), name };
    });
    const codes = new Map(executor.kernels.map(({ code }) => [code.name, code]));
    expect(new Set(ranges.map(({ name }) => name))).toEqual(new Set(codes.keys()));
    expect(ranges).toHaveLength(executor.kernels.length);
    for (const { start, size, name } of ranges) {
      expect(new Uint8Array(viewMemory(start, size)), name).toEqual(codes.get(name ?? '')?.bytes);
    }
    const sorted = ranges.toSorted((a, b) => a.start - b.start);
    for (const [i, { start, size }] of sorted.entries()) {
      expect(start + size).toBeLessThanOrEqual(sorted[i + 1]?.start ?? Number.POSITIVE_INFINITY);
    }

    // Of the programs and of the team.
    const kinds = [
      'embed',
      'norm',
      'product',
      'rope',
      'kv_write',
      'attention',
      'gather',
      'sampler',
      'team_program',
      'team_worker',
    ];
    for (const kind of kinds) expect(ranges.some(({ name }) => name?.startsWith(kind))).toBe(true);
  } finally {
    await runner.close();
  }
});
