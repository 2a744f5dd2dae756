// Owns a server process under test: started on a free port, waited for, stopped whatever happens.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { callJson } from '../http-json.ts';
import type { Launch, PreparedPeer } from './peer.ts';

/** Systems that compile their model take minutes. */
const READY_TIMEOUT_MS = 900_000;
const STOP_TIMEOUT_MS = 10_000;
const MAX_LOG_CHARS = 4000;

export interface RunningServer extends AsyncDisposable {
  readonly url: string;
}

/** Resolves when the server is ready. Rejects with the end of its output when it dies or is not ready in 15 minutes. */
export async function startServer(
  peer: PreparedPeer,
  launch: Omit<Launch, 'port'>,
  signal: AbortSignal,
): Promise<RunningServer> {
  const port = await freePort();
  const { file, args, env } = peer.command({ ...launch, port });
  const child = spawn(file, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...serverEnvironment(), ...env },
    detached: true, // a group of its own, to be ended as one
  });
  const log = new LogTail(child);
  const url = `http://127.0.0.1:${port}`;
  const stop = (): Promise<void> => stopChild(child);
  try {
    await ready(new URL(peer.readyPath, url), child, signal);
  } catch (error) {
    await stop();
    signal.throwIfAborted();
    throw new Error(`${peer.name} did not start: ${String(error)}\n${log.text}`, { cause: error });
  }
  return { url, [Symbol.asyncDispose]: stop };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Ours, without what would change how `xllm serve` runs. */
function serverEnvironment(): NodeJS.ProcessEnv {
  const isSetting = (name: string): boolean => name.startsWith('XLLM_') && name !== 'XLLM_CACHE';
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isSetting(name)));
}

/** The end of what a server printed, for the message when it fails. */
class LogTail {
  text = '';

  constructor(child: ChildProcess) {
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding('utf8').on('data', (part: string) => {
        this.text = (this.text + part).slice(-MAX_LOG_CHARS);
      });
  }
}

async function ready(url: URL, child: ChildProcess, signal: AbortSignal): Promise<void> {
  let spawnError: Error | null = null;
  child.once('error', (error) => {
    spawnError = error;
  });
  const deadline = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    await delay(100, undefined, { signal });
    if (spawnError !== null) throw spawnError as Error;
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`it ended with ${child.exitCode}`);
    const status = await callJson(url, { signal }).then(
      (reply) => reply.status,
      () => 0, // not listening yet
    );
    if (status === 200) return;
    if (performance.now() > deadline) throw new Error(`not ready after ${READY_TIMEOUT_MS / 1000} s`);
  }
}

async function stopChild(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  const { pid } = child;
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await exited;
  clearTimeout(timer);
  endGroup(pid);
}

/** What a server leaves behind when it ends. */
function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // nothing was left
  }
}
