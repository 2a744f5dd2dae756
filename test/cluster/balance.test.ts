// Running requests move from a crowded instance to one with little to do, and their answers stay what they are.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { metric } from '../support/client.ts';
import { type Cluster, lifeOf, startCluster, untilIdle } from './cluster.ts';
import { ask, type Body, contentOf, random } from './requests.ts';

let alone: Cluster;
let cluster: Cluster;
beforeAll(async () => {
  [alone, cluster] = await Promise.all([
    startCluster(1, '--time-scale', '0.02'),
    startCluster(2, '--time-scale', '0.5', '--balance-margin', '1.5'),
  ]);
});
afterAll(async () => {
  await Promise.all([alone.stop(), cluster.stop()]);
});

function body(seed: number): Body {
  const pick = random(seed);
  const prompt = Array.from({ length: 40 }, () => 100 + pick(40_000));
  return { prompt, seed, temperature: 0.8, max_tokens: 1_500, ignore_eos: true, stream: true };
}

test('what a session has crowded onto one instance is spread, one after the other, and it can be seen why', async () => {
  const bodies = [0, 1, 2, 3, 4, 5].map(body);
  const expected = await Promise.all(bodies.map((one) => ask(alone.url, one)));
  const answers = await Promise.all(
    bodies.map((one, i) => ask(cluster.url, one, { id: `crowd-${i}`, session: 'crowd' })),
  );
  answers.forEach((answer, i) => expect(contentOf(answer), `crowd-${i}`).toEqual(contentOf(expected[i]!)));
  const lives = await Promise.all(bodies.map((_, i) => lifeOf(cluster.url, `crowd-${i}`)));
  const events = lives.flatMap((life) => life?.prompts[0]?.events ?? []);
  const instances = new Set(
    events.filter(({ event }) => event === 'admitted' || event === 'moved').map(({ instance }) => instance),
  );
  expect(instances.size).toBe(2);
  const moving = events.filter(({ event }) => event === 'moving');
  expect(moving[0]?.detail['why']).toMatch(/^balance: a decode step takes [\d.]+ ms at engine-\d and [\d.]+ ms at/);
  const moved = events.filter(({ event }) => event === 'moved');
  // Each went at most once.
  expect(moved.length).toBeGreaterThan(0);
  expect(
    lives.every((life) => (life?.prompts[0]?.events ?? []).filter(({ event }) => event === 'moved').length <= 1),
  ).toBe(true);
  expect(await metric(cluster.url, 'xllm:request_migrations_total')).toBe(moved.length);
  await untilIdle(cluster.url);
}, 300_000);
