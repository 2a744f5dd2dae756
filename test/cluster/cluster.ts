// Owns a server with several engines in tests: which process is which, what happened to a request, what is left behind.
import { readFileSync } from 'node:fs';
import { metric } from '../support/client.ts';
import { childrenOf, eventually, startServer, type TestServer } from '../support/server.ts';

export interface Cluster extends TestServer {
  /** Process id of the engine of that name; undefined while it is not running. */
  readonly pidOf: (name: string) => number | undefined;
}

/** So many mixed instances, or those of `PREFILL:DECODE`. On the timed device unless `args` say otherwise. */
export async function startCluster(instances: number | string, ...args: readonly string[]): Promise<Cluster> {
  const server = await startServer([
    '--device',
    args.includes('--device') ? (args[args.indexOf('--device') + 1] ?? '') : 'timed',
    typeof instances === 'number' ? '--instances' : '--pd',
    String(instances),
    '--log-level',
    'warn',
    ...args,
  ]);
  const pidOf = (name: string) =>
    childrenOf(server.child.pid ?? -1).find((pid) => {
      const words = commandLine(pid);
      return words[words.indexOf('--name') + 1] === name;
    });
  return { ...server, pidOf };
}

function commandLine(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch (error) {
    // It has just ended.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

export interface Life {
  readonly prompts: readonly {
    readonly events: readonly {
      readonly at_ms: number;
      readonly event: string;
      readonly attempt: number;
      readonly instance: string | null;
      readonly detail: Readonly<Record<string, unknown>>;
    }[];
  }[];
}

/** What happened to a request so far; null: nobody knows it. */
export async function lifeOf(url: string, id: string): Promise<Life | null> {
  const response = await fetch(`${url}/v1/requests/${id}`);
  return response.ok ? ((await response.json()) as Life) : null;
}

/** The instance that has the request now, once `isThere` holds of its events. */
export async function instanceOf(
  url: string,
  id: string,
  isThere: (events: readonly string[]) => boolean,
): Promise<string> {
  return eventually(async () => {
    const events = (await lifeOf(url, id))?.prompts[0]?.events ?? [];
    const admitted = events.findLast(({ event }) => event === 'admitted');
    return admitted?.instance && isThere(events.map(({ event }) => event)) ? admitted.instance : null;
  }, `request ${id} is where it should be`);
}

/** Resolves when nothing runs on any engine and no page is held. */
export async function untilIdle(url: string): Promise<void> {
  await eventually(async () => (await metric(url, 'vllm:num_requests_running')) === 0, 'every sequence ended');
  await eventually(async () => (await metric(url, 'vllm:kv_cache_usage_perc')) === 0, 'every page came back');
  await eventually(async () => (await metric(url, 'xllm:handoff_open')) === 0, 'every hand-off ended');
  await eventually(async () => (await metric(url, 'xllm:handoff_pages_out')) === 0, 'every lent page came back');
}

/** How KV goes between instances of one host, and the flags for it. */
export const transports = [
  ['mapped', []],
  ['over TCP', ['--kv-transport', 'tcp']],
] as const;
