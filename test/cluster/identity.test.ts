// Four instances behind one service answer as one instance alone does, whatever the policy, while policies change.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { counts } from '../support/server.ts';
import { type Cluster, lifeOf, startCluster, untilIdle } from './cluster.ts';
import { ask, contentOf, randomRequest } from './requests.ts';

const NUM_REQUESTS = counts(60, 200);
let alone: Cluster;
let cluster: Cluster;

beforeAll(async () => {
  [alone, cluster] = await Promise.all([
    startCluster(1, '--time-scale', '0.05'),
    startCluster(4, '--time-scale', '0.2', '--kv-cache-memory', '128MiB', '--max-model-len', '4096'),
  ]);
});
afterAll(async () => {
  await Promise.all([alone.stop(), cluster.stop()]);
});

test('random requests get identical answers', async () => {
  const policies = ['round-robin', 'least-load', 'cache-aware', 'slo-aware'];
  const bodies = Array.from({ length: NUM_REQUESTS }, (_, seed) => randomRequest(seed + 1));
  const expected = await Promise.all(bodies.map((body) => ask(alone.url, body)));
  for (let at = 0, turn = 0; at < bodies.length; at += 15, turn++) {
    const changed = await fetch(`${cluster.url}/v1/cluster/policy`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ policy: policies[turn % policies.length] }),
    });
    expect(changed.status).toBe(200);
    const answers = await Promise.all(bodies.slice(at, at + 15).map((body) => ask(cluster.url, body)));
    answers.forEach((answer, i) =>
      expect(contentOf(answer), `request ${at + i}`).toEqual(contentOf(expected[at + i]!)),
    );
  }
  expect(expected.every(({ status, error }) => status === 200 && error === null)).toBe(true);
  await untilIdle(cluster.url);
});

test('each decision can be explained, and every instance had its share', async () => {
  const answer = await ask(cluster.url, { prompt: [1, 2, 3], max_tokens: 2 }, { id: 'explain-me' });
  expect(answer.status).toBe(200);
  const life = await lifeOf(cluster.url, 'explain-me');
  const events = life?.prompts[0]?.events ?? [];
  expect(events.map(({ event }) => event)).toEqual(['routed', 'admitted', 'first_token', 'finished']);
  expect(events[0]?.detail).toMatchObject({
    policy: expect.any(String) as unknown,
    reason: expect.any(String) as unknown,
  });
  expect(events[0]?.detail['candidates']).toHaveLength(4);
  const metrics = await (await fetch(`${cluster.url}/metrics`)).text();
  for (const engine of [0, 1, 2, 3])
    expect(metrics).toMatch(new RegExp(`routing_decisions_total\\{engine="${engine}"`));
  expect(metrics).toMatch(/xllm:ttft_prediction_error\{engine="0"\}/);
  expect((await fetch(`${cluster.url}/v1/requests/nobody`)).status).toBe(404);
  const wrong = await fetch(`${cluster.url}/v1/cluster/policy`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"policy":"random"}',
  });
  expect(wrong.status).toBe(400);
});

test('a session stays on its instance', async () => {
  const ids = Array.from({ length: 6 }, (_, i) => `session-${i}`);
  for (const id of ids) {
    const body = { prompt: [7, Number(id.at(-1))], max_tokens: 1 };
    // By field or by header: the same session.
    if (id.endsWith('0')) await ask(cluster.url, { ...body, session_id: 'anna' }, { id });
    else await ask(cluster.url, body, { id, session: 'anna' });
  }
  const lives = await Promise.all(ids.map((id) => lifeOf(cluster.url, id)));
  const routed = lives.map((life) => life?.prompts[0]?.events[0]);
  expect(new Set(routed.map((event) => event?.instance)).size).toBe(1);
  expect(routed[0]?.detail['reason']).toBe("its session's instance");
});
