// Instances killed and stopped at every stage of a request: the client's answer is whole, and the same as without.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { counts, eventually } from '../support/server.ts';
import { type Cluster, instanceOf, lifeOf, startCluster, untilIdle } from './cluster.ts';
import {
  type Answer,
  ask,
  askAndListen,
  type Body,
  contentOf,
  longRequest,
  promptOf,
  random,
  randomRequest,
  vanish,
} from './requests.ts';

const NUM_SEEDS = counts(2, 10);
/** At this scale a step with a full prompt chunk takes about 150 ms, a decode step 2 ms and up. */
const timeScale = ['--time-scale', '0.3'];
let alone: Cluster;
let cluster: Cluster;

beforeAll(async () => {
  [alone, cluster] = await Promise.all([
    startCluster(1, '--time-scale', '0.02'),
    startCluster(3, ...timeScale, '--suspect-timeout-s', '2', '--max-num-seqs', '8', '--routing-policy', 'least-load'),
  ]);
});
afterAll(async () => {
  await Promise.all([alone.stop(), cluster.stop()]);
});

/** Where a request is when its instance fails, by its events so far, and a request that stays there for a while. */
const stages: Readonly<Record<string, { readonly body: (seed: number) => Body; readonly numEvents: number }>> = {
  'in prefill': { body: (seed) => longRequest(seed, 2_500, 20), numEvents: 0 },
  'at its first tokens': {
    body: (seed) => longRequest(seed, 40, 300),
    numEvents: 1,
  },
  'late in decode': { body: (seed) => longRequest(seed, 40, 300), numEvents: 200 },
};

/** Longest wait for a token after each failure. */
const gapsMs: Record<string, number[]> = { SIGKILL: [], SIGSTOP: [] };

async function failDuring(stage: string, signal: 'SIGKILL' | 'SIGSTOP', seed: number): Promise<void> {
  const { body: bodyOf, numEvents } = stages[stage]!;
  const body = bodyOf(seed);
  const id = `${signal}-${stage.replaceAll(' ', '-')}-${seed}`;
  const expected = await ask(alone.url, body);
  const { answer, numSeen, gapMs, failed } = askAndListen(cluster.url, body, id);
  const name = await instanceOf(cluster.url, id, () => numSeen() >= numEvents);
  const pid = cluster.pidOf(name) ?? -1;
  process.kill(pid, signal);
  failed();
  expect(contentOf(await answer), id).toEqual(contentOf(expected));
  gapsMs[signal]?.push(gapMs());
  const events = (await lifeOf(cluster.url, id))?.prompts[0]?.events ?? [];
  expect(
    events.filter(({ event }) => event === 'lost'),
    id,
  ).toHaveLength(1);
  // The stopped one wakes late: what it does then for the request that has moved on concerns nobody.
  if (signal === 'SIGSTOP') process.kill(pid, 'SIGCONT');
  else {
    await eventually(() => {
      const next = cluster.pidOf(name);
      return next !== undefined && next !== pid;
    }, `${name} is started again`);
  }
  await eventually(async () => (await numReady()) === 3, 'all engines take requests again');
}

/** Engines that could take a request now. */
async function numReady(): Promise<number> {
  const { id, status } = await ask(cluster.url, { prompt: [1], max_tokens: 1 });
  expect(status).toBe(200);
  const routed = (await lifeOf(cluster.url, id))?.prompts[0]?.events[0];
  return (routed?.detail['candidates'] as readonly unknown[] | undefined)?.length ?? 0;
}

describe.each(['SIGKILL', 'SIGSTOP'] as const)('%s', (signal) => {
  test.each(Object.keys(stages))(
    '%s',
    async (stage) => {
      for (let seed = 1; seed <= NUM_SEEDS; seed++) await failDuring(stage, signal, seed);
      await untilIdle(cluster.url);
      console.log(`${signal} ${stage}: the longest wait for a token was ${gapsMs[signal]?.splice(0).join(', ')} ms`);
    },
    600_000,
  );
});

test('many at once, queued ones too: all are answered whole', async () => {
  // More than the instances seat: some are queued when one of them dies.
  const bodies = Array.from(
    { length: 40 },
    (_, i): Body => ({
      ...randomRequest(i + 500),
      prompt: promptOf(i, 200),
      max_tokens: 60,
    }),
  );
  const expected = await Promise.all(bodies.map((body) => ask(alone.url, body)));
  const answers = bodies.map((body, i) => ask(cluster.url, body, { id: `many-${i}` }));
  const name = await instanceOf(cluster.url, 'many-0', () => true);
  const hasQueue = async () =>
    /num_requests_waiting\{[^}]*\} [1-9]/.test(await (await fetch(`${cluster.url}/metrics`)).text());
  await eventually(hasQueue, 'some wait');
  process.kill(cluster.pidOf(name) ?? -1, 'SIGKILL');
  const got: Answer[] = await Promise.all(answers);
  got.forEach((answer, i) => expect(contentOf(answer), `many-${i}`).toEqual(contentOf(expected[i]!)));
  const lives = await Promise.all(bodies.map((_, i) => lifeOf(cluster.url, `many-${i}`)));
  const numMoved = lives.filter((life) => life?.prompts[0]?.events.some(({ event }) => event === 'lost')).length;
  expect(numMoved).toBeGreaterThan(1);
  await untilIdle(cluster.url);
}, 300_000);

test('clients that vanish while instances fail leave nothing behind', async () => {
  const pick = random(3);
  const clients = Array.from({ length: counts(40, 300) }, (_, i) =>
    vanish(
      cluster.url,
      { ...randomRequest(i + 900), prompt: promptOf(i, 300), max_tokens: 200, stream: true },
      pick(2_500),
    ),
  );
  await new Promise((resolve) => setTimeout(resolve, 700));
  process.kill(cluster.pidOf('engine-1') ?? -1, 'SIGKILL');
  await Promise.all(clients);
  await untilIdle(cluster.url);
}, 300_000);

test('a request that takes two instances down is failed, and a third is left alone', async () => {
  const body = { prompt: promptOf(9, 40), max_tokens: 2_000, stream: true, ignore_eos: true, seed: 5 };
  const answer = ask(cluster.url, body, { id: 'poison' });
  const first = await instanceOf(cluster.url, 'poison', () => true);
  process.kill(cluster.pidOf(first) ?? -1, 'SIGKILL');
  const second = await eventually(async () => {
    const events = (await lifeOf(cluster.url, 'poison'))?.prompts[0]?.events ?? [];
    return events.findLast(({ event, attempt }) => event === 'admitted' && attempt > 1)?.instance;
  }, 'it goes on elsewhere');
  expect(second).not.toBe(first);
  process.kill(cluster.pidOf(second) ?? -1, 'SIGKILL');
  const { error, choices } = await answer;
  expect(error).toMatch(/^engine_lost: 2 engines stopped/);
  // What had come before is not taken back, and is right.
  const whole = await ask(alone.url, body);
  expect(choices[0]!.tokenIds.length).toBeGreaterThan(0);
  expect(whole.choices[0]!.tokenIds.slice(0, choices[0]!.tokenIds.length)).toEqual(choices[0]!.tokenIds);
  await untilIdle(cluster.url);
}, 300_000);
