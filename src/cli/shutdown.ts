// Owns what Ctrl-C and SIGTERM mean: the first drains, the second stops at once.
import type { Log } from '../common/log.ts';

export interface Drainable {
  numRunning(): number;
  drain(timeoutMs: number): Promise<unknown>;
  close(graceMs: number): Promise<void>;
}

const ENGINE_GRACE_MS = 5_000;

/** Resolves with the exit code once a signal has come and everything has stopped. */
export async function untilStopped(server: Drainable, drainTimeoutMs: number, log: Log): Promise<number> {
  await nextSignal();
  const again = nextSignal().then(() => 'again' as const);
  const numRunning = server.numRunning();
  if (numRunning > 0) log.warn(`draining ${numRunning} request${numRunning === 1 ? '' : 's'}, Ctrl-C again to stop`);
  const how = await Promise.race([server.drain(drainTimeoutMs).then(() => 'drained' as const), again]);
  await server.close(how === 'drained' ? ENGINE_GRACE_MS : 0);
  return how === 'drained' ? 0 : 130;
}

function nextSignal(): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      process.off('SIGINT', done);
      process.off('SIGTERM', done);
      resolve();
    };
    process.on('SIGINT', done);
    process.on('SIGTERM', done);
  });
}
