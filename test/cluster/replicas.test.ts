// Two service replicas and a real etcd: both serve, one writes; etcd, the writer and engines are really killed.
import { afterEach, beforeEach, expect, test } from 'vitest';
import { complete } from '../support/client.ts';
import { startEtcd, type TestEtcd } from '../support/etcd.ts';
import { counts, eventually } from '../support/server.ts';
import { clusterOf, Halves, type Service, untilSchedulable } from './halves.ts';
import { type Answer, ask, type Body, contentOf, randomRequest } from './requests.ts';

const halves = new Halves();
let etcd: TestEtcd;
let coordinator: string;

beforeEach(async () => {
  etcd = await startEtcd();
  coordinator = `etcd://${etcd.address}/team-a`;
});
afterEach(async () => {
  await halves.stopAll();
  await etcd.close();
});

const body = { prompt: [1, 2, 3], max_tokens: 3, temperature: 0, ignore_eos: true };
const linesOf = (text: string, pattern: RegExp) => text.split('\n').filter((line) => pattern.test(line));

/** Replicas that agree on a writer among them; the writer comes first. */
async function agreed(services: readonly Service[]): Promise<readonly [writer: Service, ...others: Service[]]> {
  return eventually(async () => {
    const clusters = await Promise.all(services.map(({ url }) => clusterOf(url)));
    const { writer } = clusters[0] ?? {};
    if (!writer || clusters.some((cluster) => cluster.writer !== writer || cluster.replicas.length < services.length))
      return null;
    const at = clusters.findIndex(({ replica }) => replica === writer);
    const first = services[at];
    return first ? ([first, ...services.filter((service) => service !== first)] as const) : null;
  }, 'the replicas know each other and agree on a writer');
}

const failuresOf = (answers: readonly { readonly answer: Answer }[]) =>
  answers.flatMap(({ answer: { status, error } }) => (error !== null || status !== 200 ? [{ status, error }] : []));

/** Keeps requests running on both replicas until it is stopped; every answer is kept. */
function underLoad(services: readonly Service[], maxTokens: number) {
  let isOn = true;
  const answers: { readonly request: Body; readonly answer: Answer }[] = [];
  const clients = services.flatMap(({ url }, replica) =>
    [0, 1, 2].map(async (client) => {
      for (let i = 0; isOn; i++) {
        const seed = 1_000 * (3 * replica + client) + i;
        const request = { ...randomRequest(seed), max_tokens: maxTokens };
        answers.push({ request, answer: await ask(url, request) });
      }
    }),
  );
  return {
    answers,
    stop: async () => {
      isOn = false;
      await Promise.all(clients);
      return answers;
    },
  };
}

/** Two service replicas that both know of two engines. */
async function startPairOfReplicas(): Promise<Service[]> {
  const services = [
    await halves.service('--coordinator', coordinator),
    await halves.service('--coordinator', coordinator),
  ];
  halves.engine('e0', coordinator);
  halves.engine('e1', coordinator);
  for (const { url } of services) await untilSchedulable(url, 'e0', 'e1');
  return services;
}

test('both replicas serve what registers with etcd, and one of them writes', async () => {
  const services = await startPairOfReplicas();
  const answers = await Promise.all(services.map(({ url }) => complete(url, body)));
  expect(answers[0]?.tokenIds).toHaveLength(3);
  expect(answers[1]?.tokenIds).toEqual(answers[0]?.tokenIds);
  await agreed(services);
  await eventually(
    () => /"name":"e1"/.test(etcd.ctl('get', '/team-a/summary')),
    'the writer has published what it sees',
  );
  const keys = etcd.ctl('get', '--prefix', '--keys-only', '').split('\n').filter(Boolean);
  expect(keys.every((key) => key.startsWith('/team-a/'))).toBe(true);
  expect(keys).toEqual(expect.arrayContaining(['/team-a/instances/e0', '/team-a/instances/e1', '/team-a/writer']));
});

test('etcd killed and restarted under load: nothing fails, and the log has one line of each', async () => {
  const services = [
    await halves.service('--coordinator', coordinator),
    await halves.service('--coordinator', coordinator),
  ];
  const engines = ['e0', 'e1'].map((name) => halves.engine(name, coordinator));
  for (const { url } of services) await untilSchedulable(url, 'e0', 'e1');
  await agreed(services);
  const load = underLoad(services, 20);
  await eventually(() => load.answers.length > 10, 'requests are running');
  await etcd.kill();
  const all = [...services, ...engines];
  const lost = /coordinator cannot be reached/;
  await eventually(() => all.every(({ output }) => lost.test(output())), 'everybody has noticed');
  const numAtLoss = load.answers.length;
  // Longer than every lease.
  await new Promise((resolve) => setTimeout(resolve, counts(8_000, 60_000)));
  for (const { url } of services) {
    const { instances } = await clusterOf(url);
    expect(instances.map(({ name, schedulable }) => [name, schedulable])).toEqual([
      ['e0', true],
      ['e1', true],
    ]);
  }
  expect(load.answers.length).toBeGreaterThan(numAtLoss + 10);
  await etcd.start();
  await eventually(() => all.every(({ output }) => /coordinator is back/.test(output())), 'everybody is back');
  await agreed(services);
  // Registrations are made again, and new ones are seen.
  halves.engine('e2', coordinator);
  for (const { url } of services) await untilSchedulable(url, 'e0', 'e1', 'e2');
  await eventually(async () => {
    const { instances } = await clusterOf(services[0]?.url ?? '');
    return instances.every(({ state }) => state === 'ACTIVE');
  }, 'all are registered');
  const answers = await load.stop();
  expect(failuresOf(answers)).toEqual([]);
  console.log(`${answers.length} requests, ${answers.length - numAtLoss} of them since etcd was killed; none failed`);
  for (const { output } of all) {
    expect(linesOf(output(), lost)).toHaveLength(1);
    expect(linesOf(output(), /coordinator is back/)).toHaveLength(1);
  }
});

test('the writer is killed: the other replica takes over within the lease time, its requests unharmed', async () => {
  const services = await startPairOfReplicas();
  const [writer, other] = await agreed(services);
  expect(other).toBeDefined();
  if (!other) return;
  const load = underLoad([other], 30);
  await eventually(() => load.answers.length > 3, 'requests are running');
  const killedMs = performance.now();
  writer.child.kill('SIGKILL');
  await eventually(async () => {
    const cluster = await clusterOf(other.url);
    return cluster.writer === cluster.replica;
  }, 'the other replica writes');
  console.log(`promoted ${Math.round(performance.now() - killedMs)} ms after the kill, lease 5000 ms`);
  await eventually(async () => (await clusterOf(other.url)).replicas.length === 1, 'the dead replica is not listed');
  const answers = await load.stop();
  expect(failuresOf(answers)).toEqual([]);
  // What the dead replica had running is not computed on, and the text is what it would have been alone.
  const { request, answer } = answers[0] ?? { request: {}, answer: null };
  expect(contentOf(await ask(other.url, request))).toEqual(answer && contentOf(answer));
});

test('an engine is killed, another stopped for longer than its lease: both replicas see both', async () => {
  const services = [
    await halves.service('--coordinator', coordinator),
    await halves.service('--coordinator', coordinator),
  ];
  const [dying, sleeping] = ['e0', 'e1', 'e2'].map((name) => halves.engine(name, coordinator));
  for (const { url } of services) await untilSchedulable(url, 'e0', 'e1', 'e2');
  const load = underLoad(services, 20);
  await eventually(() => load.answers.length > 6, 'requests are running');
  dying?.child.kill('SIGKILL');
  for (const { url } of services) await untilSchedulable(url, 'e1', 'e2');
  // A request that loses two instances is given up, so those of the first are let through before the second goes.
  const numBefore = load.answers.length;
  await eventually(() => load.answers.length > numBefore + 12, 'what was lost has ended elsewhere');
  sleeping?.child.kill('SIGSTOP');
  for (const { url } of services) await untilSchedulable(url, 'e2');
  // Beyond its lease.
  await new Promise((resolve) => setTimeout(resolve, 8_000));
  sleeping?.child.kill('SIGCONT');
  for (const { url } of services) await untilSchedulable(url, 'e1', 'e2');
  const answers = await load.stop();
  expect(failuresOf(answers)).toEqual([]);
  for (const { url } of services) {
    await eventually(async () => {
      const { instances } = await clusterOf(url);
      return instances.map(({ name, state }) => `${name} ${state}`).join() === 'e1 ACTIVE,e2 ACTIVE';
    }, 'the dead one is not listed any more, the others are as they were');
  }
});
