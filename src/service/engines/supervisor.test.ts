// The supervisor over real child processes: back-off, a failed start, stopping, killing; and the watchdog's judgement.
import { spawn } from 'node:child_process';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { restartDelayMs, Supervisor } from './supervisor.ts';
import { Watchdog } from './watchdog.ts';

const running: Supervisor[] = [];
afterEach(async () => {
  for (const supervisor of running.splice(0)) await supervisor.stop(0);
});

function supervise(script: string) {
  const exits: (readonly [string, number | null])[] = [];
  const supervisor = new Supervisor(
    () => spawn(process.execPath, ['-e', script], { stdio: ['pipe', 'ignore', 'ignore'] }),
    {
      onExit: (how, restartMs) => exits.push([how, restartMs]),
    },
  );
  running.push(supervisor);
  supervisor.start();
  return { supervisor, exits };
}

describe('supervisor', () => {
  test('waits twice as long after each failure, up to half a minute', () => {
    expect([1, 2, 3, 7, 20].map(restartDelayMs)).toEqual([500, 1_000, 2_000, 30_000, 30_000]);
  });

  test('a child that was never ready is not started again', async () => {
    const { exits, supervisor } = supervise('process.exit(3)');
    await vi.waitFor(() => expect(exits).toEqual([['exited with code 3', null]]), 30_000);
    expect(supervisor.pid).toBeUndefined();
  });

  test('a ready child that is killed is started again', async () => {
    const { exits, supervisor } = supervise('setInterval(() => {}, 1000)');
    supervisor.markReady();
    const first = supervisor.pid;
    supervisor.kill();
    await vi.waitFor(() => expect(exits).toEqual([['was killed by SIGKILL', 500]]), 30_000);
    await vi.waitFor(() => expect(supervisor.pid).toBeDefined(), 30_000);
    expect(supervisor.pid).not.toBe(first);
    expect(supervisor.numRestarts).toBe(1);
  });

  test('a retired child is not started again', async () => {
    const { exits, supervisor } = supervise('process.stdin.once("end", () => process.exit(0)).resume()');
    supervisor.markReady();
    supervisor.retire();
    supervisor.kill();
    await vi.waitFor(() => expect(exits).toEqual([['was killed by SIGKILL', null]]), 30_000);
    expect(supervisor.pid).toBeUndefined();
  });

  test('a child that ignores SIGTERM is killed after the grace', async () => {
    const { supervisor } = supervise("process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)");
    supervisor.markReady();
    await supervisor.stop(300);
    expect(supervisor.pid).toBeUndefined();
  });
});

describe('watchdog', () => {
  const watchdog = () => new Watchdog({ maxStalledMs: 1_000, maxSilentMs: 500 });

  test('pending work without a step is stuck, idleness is not', () => {
    expect(watchdog().judge(0, 10)).toBe('alive');
    expect(watchdog().judge(1_000, 10)).toBe('alive');
    expect(watchdog().judge(1_001, 10)).toBe('stuck');
  });

  test('silence counts from the last answer', () => {
    const dog = watchdog();
    dog.reset(100);
    expect([dog.judge(null, 600), dog.judge(5, 650), dog.judge(null, 1_100), dog.judge(null, 1_151)]).toEqual([
      'alive',
      'alive',
      'alive',
      'stuck',
    ]);
  });
});
