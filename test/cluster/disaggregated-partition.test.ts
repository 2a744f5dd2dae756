// Prefill and decode instances on machines of their own (network namespaces): blocks travel over TCP, and when the way
// between the two is cut for ten seconds, while the service reaches both, every answer is whole and the same.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { metric } from '../support/client.ts';
import { counts, eventually, root } from '../support/server.ts';
import { untilIdle } from './cluster.ts';
import { Halves, schedulable, untilSchedulable } from './halves.ts';
import { ask, type Body, contentOf, random, randomRequest } from './requests.ts';

const CUT_MS = 10_000;
const NUM_REQUESTS = counts(16, 60);
const bridge = `xb${process.pid}`;
const machines = ['p0', 'p1', 'd0'] as const;
type Machine = (typeof machines)[number];
const subnet = '10.77.9';
const addressOf = (machine: Machine) => `${subnet}.${2 + machines.indexOf(machine)}`;
const namespaceOf = (machine: Machine) => `xllm-test-${process.pid}-${machine}`;
const run = (...args: readonly string[]) => execFileSync('ip', args, { stdio: 'pipe' }).toString();

/** Whether this process may make such networks; if not, why. */
function whyNot(): string | null {
  try {
    run('link', 'add', bridge, 'type', 'bridge');
    run('addr', 'add', `${subnet}.1/24`, 'dev', bridge);
    run('link', 'set', bridge, 'up');
    return null;
  } catch (error) {
    return `no network of its own here: ${error instanceof Error ? error.message.split('\n')[0] : String(error)}`;
  }
}

const obstacle = whyNot();
const halves = new Halves();
const stops: (() => Promise<void>)[] = [];
const folder = mkdtempSync(join(tmpdir(), 'xllm-test-partition-'));
const token = join(folder, 'token');

beforeAll(() => {
  writeFileSync(token, 'secret\n');
  if (obstacle) return;
  for (const machine of machines) {
    const [inside, outside] = [`xi${process.pid}${machine}`, `xo${process.pid}${machine}`];
    run('netns', 'add', namespaceOf(machine));
    run('link', 'add', outside, 'type', 'veth', 'peer', 'name', inside);
    run('link', 'set', inside, 'netns', namespaceOf(machine));
    run('link', 'set', outside, 'master', bridge);
    run('link', 'set', outside, 'up');
    run('-n', namespaceOf(machine), 'link', 'set', inside, 'name', 'eth0');
    run('-n', namespaceOf(machine), 'addr', 'add', `${addressOf(machine)}/24`, 'dev', 'eth0');
    run('-n', namespaceOf(machine), 'link', 'set', 'eth0', 'up');
    run('-n', namespaceOf(machine), 'link', 'set', 'lo', 'up');
  }
});

afterAll(async () => {
  await halves.stopAll();
  for (const stop of stops) await stop();
  rmSync(folder, { recursive: true, force: true });
  if (obstacle) return;
  for (const machine of machines) run('netns', 'del', namespaceOf(machine));
  run('link', 'del', bridge);
});

/** Frames from one to the other go to nobody: as silent as a cable that was pulled. */
function cut(from: Machine, to: Machine): void {
  run(
    '-n',
    namespaceOf(from),
    'neigh',
    'replace',
    addressOf(to),
    'lladdr',
    '02:00:00:00:00:99',
    'dev',
    'eth0',
    'nud',
    'permanent',
  );
}

function heal(from: Machine, to: Machine): void {
  run('-n', namespaceOf(from), 'neigh', 'del', addressOf(to), 'dev', 'eth0');
}

function startEngine(machine: Machine, role: string, coordinator: string): void {
  const own = ['--name', machine, '--role', role, '--listen', `${addressOf(machine)}:0`];
  const common = [
    '--coordinator',
    coordinator,
    '--cluster-token-file',
    token,
    '--device',
    'timed',
    '--time-scale',
    '0.2',
  ];
  const words = [join(root, 'bin/xllm.js'), 'engine', ...own, ...common, '--kv-transport', 'tcp'];
  const child = spawn('ip', ['netns', 'exec', namespaceOf(machine), process.execPath, ...words], {
    stdio: 'ignore',
    detached: true,
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  stops.push(async () => {
    if (child.exitCode === null && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    await exited;
  });
}

function body(seed: number): Body {
  const { echo: _, ...rest } = randomRequest(seed);
  const pick = random(seed);
  const prompt = Array.from({ length: 100 + pick(600) }, () => 100 + pick(40_000));
  return { ...rest, prompt, max_tokens: 20 + pick(100), stream: true, ignore_eos: true };
}

test.skipIf(obstacle !== null)(
  `cut for ten seconds${obstacle ? ` (${obstacle})` : ''}`,
  async () => {
    const alone = await halves.service('timed');
    halves.engine('alone', alone.registersAt);
    const listen = ['--listen', `${subnet}.1:0`, '--cluster-token-file', token];
    const service = await halves.service(
      'timed',
      ...listen,
      '--suspect-timeout-s',
      '2',
      '--routing-policy',
      'round-robin',
    );
    startEngine('p0', 'prefill', service.registersAt);
    startEngine('p1', 'prefill', service.registersAt);
    startEngine('d0', 'decode', service.registersAt);
    await untilSchedulable(alone.url, 'alone');
    await untilSchedulable(service.url, ...machines);
    const bodies = Array.from({ length: NUM_REQUESTS }, (_, i) => body(i + 1));
    const expected = await Promise.all(bodies.map((one) => ask(alone.url, one)));
    const check = async (when: string) => {
      const answers = await Promise.all(bodies.map((one, i) => ask(service.url, one, { id: `${when}-${i}` })));
      answers.forEach((answer, i) => expect(contentOf(answer), `${when} ${i}`).toEqual(contentOf(expected[i]!)));
    };
    await check('before');
    expect(await metric(service.url, 'xllm:handoff_pushed_bytes_total')).toBeGreaterThan(0);
    const during = check('during');
    await new Promise((resolve) => setTimeout(resolve, 100));
    // The other prefill instance still reaches the decode instance.
    cut('p0', 'd0');
    cut('d0', 'p0');
    const sinceMs = performance.now();
    await during;
    console.log(`requests under way when it was cut were done after ${Math.round(performance.now() - sinceMs)} ms`);
    const roundsMs: number[] = [];
    while (performance.now() - sinceMs < CUT_MS) {
      const roundMs = performance.now();
      await check('cut');
      roundsMs.push(Math.round(performance.now() - roundMs));
    }
    console.log(`rounds of ${NUM_REQUESTS} while it is cut took ${roundsMs.join(', ')} ms`);
    // What could not leave was decoded where it was.
    expect(await metric(service.url, 'xllm:handoff_kept_total')).toBeGreaterThan(0);
    heal('p0', 'd0');
    heal('d0', 'p0');
    const outBefore = await metric(service.url, 'xllm:handoff_out_total');
    await check('healed');
    await eventually(async () => {
      await check('again');
      const text = await (await fetch(`${service.url}/metrics`)).text();
      return (
        Number(/handoff_out_total\{[^}]*engine="p0"\} (\d+)/.exec(text)?.[1]) > 0 &&
        (await metric(service.url, 'xllm:handoff_out_total')) > outBefore
      );
    }, 'hand-offs go on');
    await untilIdle(service.url);
    expect((await schedulable(service.url)).join()).toBe('d0,p0,p1');
  },
  300_000,
);
