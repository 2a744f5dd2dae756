// The real model on two instances: one is killed while it prefills and one while it decodes; answers are as without.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventually } from '../support/server.ts';
import { type Cluster, instanceOf, lifeOf, startCluster, untilIdle } from './cluster.ts';
import { ask, contentOf } from './requests.ts';

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster(2, '--device', 'cpu', '--threads', '1', '--max-model-len', '2048');
});
afterAll(() => cluster.stop());

const prompt = (seed: number, length: number) =>
  Array.from({ length }, (_, i) => 100 + ((seed * 7919 + i * 31) % 40_000));
const cases: Readonly<
  Record<string, { readonly body: Readonly<Record<string, unknown>>; readonly numEvents: number }>
> = {
  'greedy, in prefill': { body: { prompt: prompt(1, 1_200), max_tokens: 16, temperature: 0 }, numEvents: 0 },
  'seeded, two choices, log-probabilities, in decode': {
    body: {
      prompt: prompt(2, 60),
      max_tokens: 120,
      temperature: 0.9,
      seed: 11,
      n: 2,
      logprobs: 2,
      repetition_penalty: 1.1,
    },
    numEvents: 60,
  },
  'seeded, minimum length, late': {
    body: { prompt: prompt(3, 60), max_tokens: 120, temperature: 1, seed: 5, min_tokens: 110, presence_penalty: 0.4 },
    numEvents: 90,
  },
};

test.each(Object.entries(cases))(
  '%s',
  async (name, { body: fields, numEvents }) => {
    const body = { ...fields, ignore_eos: true, stream: true };
    // With the prefix cache warm and cold: the expected answer comes from the same two instances.
    const expected = await ask(cluster.url, { ...body, cache_salt: 'expected' });
    const id = `real-${Object.keys(cases).indexOf(name)}`;
    let seen = 0;
    const answer = ask(cluster.url, body, { id, onEvent: () => seen++ });
    const instance = await instanceOf(cluster.url, id, () => seen >= numEvents);
    process.kill(cluster.pidOf(instance) ?? -1, 'SIGKILL');
    expect(contentOf(await answer)).toEqual(contentOf(expected));
    const events = (await lifeOf(cluster.url, id))?.prompts[0]?.events ?? [];
    expect(events.filter(({ event }) => event === 'lost')).toHaveLength(1);
    await eventually(
      async () =>
        (await fetch(`${cluster.url}/metrics`))
          .text()
          .then((text) => (text.match(/^xllm:engine_up\{.*\} 1$/gm) ?? []).length === 2),
      'both serve again',
    );
    await untilIdle(cluster.url);
  },
  300_000,
);

// The last one: what was drained is not started again.
test('an instance is drained while it decodes: each request goes on with its KV, and its answer stays what it is', async () => {
  const bodies = Object.values(cases).map(({ body }) => ({ ...body, max_tokens: 160, ignore_eos: true, stream: true }));
  const expected = await Promise.all(
    bodies.map((body) => ask(cluster.url, { ...body, cache_salt: 'expected to be drained' })),
  );
  // On one instance, so that they move.
  const seen = bodies.map(() => 0);
  const answers = bodies.map((body, i) =>
    ask(cluster.url, body, { id: `drained-${i}`, session: 'one', onEvent: () => (seen[i] = (seen[i] ?? 0) + 1) }),
  );
  const name = await instanceOf(cluster.url, 'drained-0', () => seen.every((count) => count > 10));
  const response = await fetch(`${cluster.url}/v1/cluster/drain`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ instance: name }),
  });
  expect(response.status).toBe(200);
  const got = await Promise.all(answers);
  got.forEach((answer, i) => expect(contentOf(answer), `drained-${i}`).toEqual(contentOf(expected[i]!)));
  const lives = await Promise.all(bodies.map((_, i) => lifeOf(cluster.url, `drained-${i}`)));
  const events = lives.flatMap((life) => life?.prompts[0]?.events ?? []);
  expect(events.filter(({ event }) => event === 'lost')).toEqual([]);
  const moved = events.filter(({ event }) => event === 'moved');
  expect(moved.length).toBeGreaterThan(0);
  expect(events.filter(({ event }) => event === 'moving').every(({ detail }) => detail['withKv'] === true)).toBe(true);
  console.log(
    `real model: ${moved.length} moved, pauses of ${moved.map(({ detail }) => Number(detail['pauseMs']).toFixed(0)).join(' ')} ms`,
  );
  await eventually(() => cluster.pidOf(name) === undefined, 'it has left');
  await untilIdle(cluster.url);
}, 300_000);
