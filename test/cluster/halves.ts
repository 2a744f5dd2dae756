// Owns services and engines started apart in tests, each a process of its own, and what they say of each other.
import type { ClusterReply } from '../../src/service/http/cluster/route.ts';
import { eventually, type RunningProgram, runProgram } from '../support/server.ts';

export interface Service extends RunningProgram {
  readonly url: string;
  /** What engines are told with --coordinator. */
  readonly registersAt: string;
}

export class Halves {
  readonly #programs: RunningProgram[] = [];

  start(args: readonly string[], environment: Readonly<Record<string, string>> = {}): RunningProgram {
    const program = runProgram(args, environment);
    this.#programs.push(program);
    return program;
  }

  /** Resolves when it listens, on free ports. */
  async service(...args: readonly string[]): Promise<Service> {
    const listen = args.includes('--coordinator') || args.includes('--listen') ? [] : ['--listen', '127.0.0.1:0'];
    const program = this.start(['service', '--port', '0', ...listen, ...args]);
    const [url, registersAt] = await eventually(() => {
      const match = /at (http:\/\/\S+); engines register at (\S+)/.exec(program.output());
      return match?.[1] && match[2] ? ([match[1], match[2]] as const) : null;
    }, `the service listens; it printed ${program.output()}`);
    return { ...program, url, registersAt };
  }

  /** On the timed device, ten times as fast. */
  engine(name: string, coordinator: string, ...args: readonly string[]): RunningProgram {
    const device = ['--device', 'timed', '--time-scale', '0.1'];
    return this.start(['engine', '--name', name, '--coordinator', coordinator, ...device, ...args]);
  }

  async stopAll(): Promise<void> {
    for (const { child, exited } of this.#programs.splice(0)) {
      child.kill('SIGKILL');
      await exited;
    }
  }
}

export async function clusterOf(url: string): Promise<ClusterReply> {
  return (await (await fetch(`${url}/v1/cluster`)).json()) as ClusterReply;
}

/** Names of instances that requests may go to. */
export async function schedulable(url: string): Promise<string[]> {
  return (await clusterOf(url)).instances.filter(({ schedulable: may }) => may).map(({ name }) => name);
}

export async function untilSchedulable(url: string, ...names: readonly string[]): Promise<void> {
  const wanted = [...names].sort().join();
  await eventually(async () => (await schedulable(url)).join() === wanted, `${wanted || 'nobody'} can take requests`);
  // The first instance of a model makes the service open its tokenizer.
  if (wanted !== '') await eventually(async () => (await fetch(`${url}/ready`)).ok, 'the service is ready');
}

export async function modelsOf(url: string): Promise<string[]> {
  const list = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
  return list.data.map(({ id }) => id);
}
