// docs/cluster.md, word for word: its commands, run between two network namespaces with the addresses that it names.
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventually, root } from '../support/server.ts';

const machines = { A: '10.0.0.5', B: '10.0.0.7' } as const;
type Machine = keyof typeof machines;
const namespaceOf = (machine: Machine) => `xllm-test-${process.pid}-${machine}`;

interface Command {
  readonly machine: Machine;
  readonly text: string;
}

/** The commands of the section, in its order: "On B, …:" says where. */
function documentedCommands(): Command[] {
  const document = readFileSync(join(root, 'docs/cluster.md'), 'utf8');
  const section = /## Two machines with etcd\n([\s\S]*?)\n### /.exec(document)?.[1] ?? '';
  return [...section.matchAll(/[Oo]n ([AB])[,:][^\n]*\n\n```sh\n([\s\S]*?)```/g)].flatMap(([, machine, block]) =>
    (block ?? '')
      .trim()
      .split('\n')
      .map((text) => ({ machine: machine as Machine, text })),
  );
}

const run = (...args: readonly string[]) => execFileSync(args[0] ?? '', args.slice(1), { stdio: 'pipe' }).toString();

/** Whether this process may make network namespaces; if not, why. */
function whyNot(): string | null {
  try {
    run('ip', 'netns', 'add', `xllm-probe-${process.pid}`);
    run('ip', 'netns', 'del', `xllm-probe-${process.pid}`);
    return null;
  } catch (error) {
    return `no network namespaces here: ${error instanceof Error ? error.message.split('\n')[0] : String(error)}`;
  }
}

const obstacle = whyNot();
let folder: string;
const started: { readonly stop: () => Promise<void>; readonly output: () => string; readonly text: string }[] = [];

/** A machine's shell: its network, a folder of its own, `xllm` in its path. */
function shell(machine: Machine, text: string) {
  const child = spawn('ip', ['netns', 'exec', namespaceOf(machine), 'bash', '-c', `exec 2>&1; ${text}`], {
    cwd: join(folder, 'work'),
    detached: true,
    env: { ...process.env, PATH: `${join(folder, 'bin')}:${process.env.PATH}` },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const exited = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
  const stop = async () => {
    // The whole group: `ip netns exec`, the shell and what it runs.
    if (child.exitCode === null && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    await exited;
  };
  return { exited, output: () => output, stop };
}

beforeAll(() => {
  if (obstacle) return;
  folder = mkdtempSync(join(tmpdir(), 'xllm-test-machines-'));
  for (const name of ['bin', 'work']) mkdirSync(join(folder, name));
  const xllm = join(folder, 'bin/xllm');
  writeFileSync(xllm, `#!/bin/sh\nexec ${process.execPath} ${join(root, 'bin/xllm.js')} "$@"\n`);
  chmodSync(xllm, 0o755);
  const ends = { A: `xt${process.pid}a`, B: `xt${process.pid}b` };
  run('ip', 'link', 'add', ends.A, 'type', 'veth', 'peer', 'name', ends.B);
  for (const machine of ['A', 'B'] as const) {
    run('ip', 'netns', 'add', namespaceOf(machine));
    run('ip', 'link', 'set', ends[machine], 'netns', namespaceOf(machine));
    run('ip', '-n', namespaceOf(machine), 'addr', 'add', `${machines[machine]}/24`, 'dev', ends[machine]);
    run('ip', '-n', namespaceOf(machine), 'link', 'set', ends[machine], 'up');
    run('ip', '-n', namespaceOf(machine), 'link', 'set', 'lo', 'up');
  }
});

afterAll(async () => {
  if (obstacle) return;
  for (const { stop } of started) await stop();
  for (const machine of ['A', 'B'] as const) run('ip', 'netns', 'del', namespaceOf(machine));
  rmSync(folder, { recursive: true, force: true });
});

const isServer = (text: string) => /^(etcd|xllm service|xllm engine) /.test(text);

test.skipIf(obstacle !== null)(`two machines with etcd, as documented${obstacle ? ` (${obstacle})` : ''}`, async () => {
  const commands = documentedCommands();
  const servers = commands.filter(({ text }) => isServer(text));
  expect(servers.map(({ machine, text }) => `${machine} ${text.split(' ').slice(0, 2).join(' ')}`)).toEqual([
    'A etcd --name',
    'A xllm service',
    'B xllm engine',
    'B xllm service',
  ]);
  const firstServer = commands.findIndex(({ text }) => isServer(text));
  for (const { machine, text } of commands.slice(0, firstServer)) {
    const { exited, output } = shell(machine, text);
    expect(await exited, `${text}\n${output()}`).toBe(0);
  }
  for (const { machine, text } of servers) started.push({ ...shell(machine, text), text });
  const printed = () => started.map(({ text, output }) => `$ ${text}\n${output()}`).join('\n');
  const [status, question] = commands.slice(firstServer).filter(({ text }) => !isServer(text));
  const ask = async (command: Command | undefined) => {
    const { exited, output } = shell(command?.machine ?? 'A', command?.text ?? '');
    return { code: await exited, text: output() };
  };
  const shown = await eventually(async () => {
    const reply = await ask(status);
    return reply.code === 0 && reply.text;
  }, `the cluster is ready; it printed\n${printed()}`);
  expect(shown).toMatch(/^ready: smollm2-135m-instruct$/m);
  expect(shown).toMatch(/^b0 +smollm2-135m-instruct +mix +ACTIVE .* 10\.0\.0\.7:8200$/m);
  expect(shown).toMatch(
    /^replicas: .*http:\/\/10\.0\.0\.5:8000.*http:\/\/10\.0\.0\.7:8000|http:\/\/10\.0\.0\.7:8000.*http:\/\/10\.0\.0\.5:8000/m,
  );
  const answer = await eventually(async () => {
    const { text } = await ask(question);
    return /"content"/.test(text) && text;
  }, `the question is answered; it printed\n${printed()}`);
  // What the small model says depends on the kernels; that engine B computed it all does not.
  const reply = JSON.parse(answer) as {
    choices: { message: { content: string } }[];
    usage: { completion_tokens: number };
  };
  expect(reply.choices[0]?.message.content.trim()).not.toBe('');
  expect(reply.usage.completion_tokens).toBeGreaterThan(0);
});
