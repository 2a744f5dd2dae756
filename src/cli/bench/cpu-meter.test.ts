import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { busyTicks, CpuMeter, parseProcessStat, treeTicks } from './cpu-meter.ts';

describe('busyTicks', () => {
  it('adds all but idle and waiting, theft included', () => {
    expect(busyTicks('cpu  100 20 30 9999 888 7 6 5 4 3\ncpu0 1 2 3 4 5 6 7 8 9 10\n')).toBe(168);
    expect(() => busyTicks('intr 1')).toThrow(/no cpu line/);
  });
});

describe('parseProcessStat', () => {
  it('reads past names with spaces and parentheses', () => {
    const line = '4242 (a (b) c) S 17 4242 4242 0 -1 4194560 1 2 3 4 50 6 70 8 20 0 3 0 100 1 1';
    expect(parseProcessStat(line)).toEqual({ pid: 4242, parent: 17, ticks: 50 + 6 + 70 + 8 });
  });
});

describe('treeTicks', () => {
  const processes = [
    { pid: 1, parent: 0, ticks: 1000 },
    { pid: 10, parent: 1, ticks: 5 },
    { pid: 11, parent: 10, ticks: 20 },
    { pid: 12, parent: 11, ticks: 300 },
    { pid: 13, parent: 1, ticks: 4000 },
  ];

  it('adds a process and its descendants, and nobody else', () => {
    expect(treeTicks(processes, 10)).toBe(325);
    expect(treeTicks(processes, 12)).toBe(300);
    expect(treeTicks(processes, 99)).toBe(0);
  });
});

// Only what holds on a busy machine: a child's work is not foreign, so it cannot exceed what is left of the cores.
describe.runIf(process.platform === 'linux')('CpuMeter', () => {
  it('does not count its own descendants', async () => {
    const meter = new CpuMeter();
    const spin = 'const end = Date.now() + 400; while (Date.now() < end);';
    await once(spawn(process.execPath, ['-e', spin]), 'exit');
    const foreign = meter.foreignCores();
    expect(foreign).toBeGreaterThanOrEqual(0);
    expect(Number.isFinite(foreign)).toBe(true);
  });
});
