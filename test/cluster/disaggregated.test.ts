// Prefill and decode instances answer as one instance alone does: on mapped pools and over TCP, one of each and two.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { metric } from '../support/client.ts';
import { counts } from '../support/server.ts';
import { type Cluster, lifeOf, startCluster, untilIdle } from './cluster.ts';
import { type Answer, ask, contentOf, randomRequest } from './requests.ts';

const NUM_REQUESTS = counts(60, 200);
const bodies = Array.from({ length: NUM_REQUESTS }, (_, seed) => randomRequest(seed + 1));
let expected: readonly Answer[];

beforeAll(async () => {
  const alone = await startCluster(1, '--time-scale', '0.05');
  expected = await Promise.all(bodies.map((body) => ask(alone.url, body)));
  await alone.stop();
  expect(expected.every(({ status, error }) => status === 200 && error === null)).toBe(true);
});

const small = ['--time-scale', '0.2', '--kv-cache-memory', '128MiB', '--max-model-len', '4096'];
const setUps: Readonly<Record<string, { readonly pd: string; readonly args: readonly string[] }>> = {
  'one and one': { pd: '1:1', args: small },
  'two and two, little memory': { pd: '2:2', args: small },
  'one and one over TCP': { pd: '1:1', args: [...small, '--kv-transport', 'tcp'] },
  'one and three, without a prefix cache': { pd: '1:3', args: [...small, '--no-enable-prefix-caching'] },
};

describe.each(Object.entries(setUps))('%s', (_, { pd, args }) => {
  let cluster: Cluster;
  beforeAll(async () => {
    cluster = await startCluster(pd, ...args);
  });
  afterAll(() => cluster.stop());

  test('random requests get identical answers', async () => {
    for (let at = 0; at < bodies.length; at += 20) {
      const answers = await Promise.all(bodies.slice(at, at + 20).map((body) => ask(cluster.url, body)));
      answers.forEach((answer, i) =>
        expect(contentOf(answer), `request ${at + i}`).toEqual(contentOf(expected[at + i]!)),
      );
    }
    await untilIdle(cluster.url);
    const handedOver = await metric(cluster.url, 'xllm:handoff_out_total');
    expect(handedOver).toBeGreaterThan(NUM_REQUESTS / 2);
    expect(await metric(cluster.url, 'xllm:handoff_in_total')).toBe(handedOver);
    const [pushed, lent, before] = await Promise.all(
      ['pushed_blocks', 'lent_blocks', 'bytes_before_first_decode'].map((name) =>
        metric(cluster.url, `xllm:handoff_${name}_total`),
      ),
    );
    if (args.includes('tcp')) {
      expect(pushed).toBeGreaterThan(0);
      expect(lent).toBe(0);
    } else {
      // Nothing moves before the first decode where pools are mapped.
      expect(pushed).toBe(0);
      expect(before).toBe(0);
      expect(lent).toBeGreaterThan(0);
    }
    const { id } = await ask(cluster.url, { prompt: [1, 2, 3], max_tokens: 3, ignore_eos: true });
    const routed = (await lifeOf(cluster.url, id))?.prompts[0]?.events[0];
    expect(routed?.instance).toMatch(/^prefill-/);
    expect(routed?.detail['handOffTo']).toMatch(/^decode-/);
  }, 300_000);
});

test('a decode instance that is drained while it still reads pages of others', async () => {
  // Blocks so large that a sequence writes in the source's page for long.
  const large = ['--block-size', '128', '--routing-policy', 'round-robin'];
  const cluster = await startCluster('1:2', '--time-scale', '0.5', ...large);
  const long = Array.from({ length: 16 }, (_, i) => ({
    prompt: Array.from({ length: 50 + 7 * i }, (__, at) => 100 + ((i * 991 + at * 31) % 40_000)),
    max_tokens: 120,
    temperature: 0.8,
    seed: i,
    ignore_eos: true,
    stream: true,
  }));
  const alone = await startCluster(1, '--time-scale', '0.05');
  const wanted = await Promise.all(long.map((body) => ask(alone.url, body)));
  await alone.stop();
  const drain = async () =>
    fetch(`${cluster.url}/v1/cluster/drain`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"instance":"decode-0"}',
    });
  const drains: Promise<Response>[] = [];
  let numEvents = 0;
  const answers = await Promise.all(
    long.map((body) =>
      ask(cluster.url, body, {
        onEvent: () => {
          // Some have just been handed over, some are about to be.
          if (++numEvents === 20) drains.push(drain());
        },
      }),
    ),
  );
  expect((await drains[0])?.status).toBe(200);
  answers.forEach((answer, i) => expect(contentOf(answer), `request ${i}`).toEqual(contentOf(wanted[i]!)));
  await untilIdle(cluster.url);
  // They moved, and were not lost and recovered.
  expect(await metric(cluster.url, 'xllm:request_recoveries_total')).toBe(0);
  expect(await metric(cluster.url, 'xllm:request_migrations_total')).toBeGreaterThan(0);
  await cluster.stop();
}, 120_000);
