// Owns real servers in tests: starts the program as a user does, finds its address, and leaves nothing behind.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export const root = join(import.meta.dirname, '../..');
const entry = join(root, 'bin/xllm.js');

/** Full counts with `npm run test:full`, reduced ones otherwise. */
const isFull = Boolean(process.env.XLLM_TEST_FULL);
export const counts = (reduced: number, full: number): number => (isFull ? full : reduced);

export interface RunningProgram {
  readonly child: ChildProcess;
  /** All it has printed so far. */
  readonly output: () => string;
  /** Resolves with the exit code, or the signal's name. */
  readonly exited: Promise<number | string>;
}

/** Starts `xllm ARGS`. Its environment is this one's without options of the product. */
export function runProgram(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): RunningProgram {
  const inherited = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('XLLM_') || name === 'XLLM_CACHE'),
  );
  const child = spawn(process.execPath, [entry, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...inherited, ...environment },
  });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  const exited = new Promise<number | string>((resolve) => {
    child.once('exit', (code, signal) => resolve(signal ?? code ?? -1));
  });
  return { child, output: () => text, exited };
}

export interface TestServer extends RunningProgram {
  readonly url: string;
  /** SIGTERM, and SIGKILL if that does not help. */
  readonly stop: () => Promise<void>;
  readonly enginePid: () => number;
}

/** Polls until `probe` returns something; fails after a minute with what was printed. */
export async function eventually<T>(
  probe: () => Promise<T | null | undefined | false> | T | null | undefined | false,
  what: string,
): Promise<T> {
  const deadline = performance.now() + 60_000;
  let last: unknown;
  while (performance.now() < deadline) {
    try {
      const value = await probe();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`not within a minute: ${what}${last instanceof Error ? ` (${last.message})` : ''}`);
}

/** Starts `xllm serve` on a free port and waits until it is ready. */
export async function startServer(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<TestServer> {
  const program = runProgram(['serve', ...args, '--port', '0'], environment);
  let exit: number | string | null = null;
  void program.exited.then((how) => {
    exit = how;
  });
  const url = await eventually(async () => {
    if (exit !== null) return 'exited';
    const match = /http:\/\/127\.0\.0\.1:\d+/.exec(program.output());
    return match && (await fetch(`${match[0]}/ready`)).ok ? match[0] : null;
  }, `the server is ready; it printed:\n${program.output()}`);
  if (url === 'exited') throw new Error(`the server ended (${exit}) and printed:\n${program.output()}`);
  return {
    ...program,
    url,
    stop: async () => {
      program.child.kill('SIGTERM');
      const timer = setTimeout(() => program.child.kill('SIGKILL'), 30_000);
      await program.exited;
      clearTimeout(timer);
    },
    enginePid: () => {
      const pid = childrenOf(program.child.pid ?? -1).find((child) => commandLine(child).includes('engine'));
      if (pid === undefined) throw new Error('the server has no engine process');
      return pid;
    },
  };
}

/** Child processes of a process, from /proc. */
export function childrenOf(pid: number): number[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  if (!existsSync(path)) return [];
  return readFileSync(path, 'utf8').split(' ').filter(Boolean).map(Number);
}

function commandLine(pid: number): string {
  const path = `/proc/${pid}/cmdline`;
  return existsSync(path) ? readFileSync(path, 'utf8').replaceAll('\0', ' ') : '';
}

export function isAlive(pid: number): boolean {
  const path = `/proc/${pid}/stat`;
  // A zombie has ended; only its parent has not looked yet.
  return existsSync(path) && !/\) Z /.test(readFileSync(path, 'utf8'));
}
