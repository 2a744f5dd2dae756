// Clients vanish at random points of disaggregated requests: no page, lease, stream or descriptor is left.
import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { metric } from '../support/client.ts';
import { counts, eventually } from '../support/server.ts';
import { type Cluster, startCluster, transports, untilIdle } from './cluster.ts';
import { ask, type Body, contentOf, random, randomRequest, vanish } from './requests.ts';

const NUM_CLIENTS = counts(100, 500);
/** Sent at one time. */
const NUM_ROUNDS = 4;

describe.each(transports)('%s', (_, args) => {
  let cluster: Cluster;
  beforeAll(async () => {
    cluster = await startCluster(
      '2:2',
      '--time-scale',
      '0.3',
      '--kv-cache-memory',
      '256MiB',
      '--max-model-len',
      '4096',
      ...args,
    );
  });
  afterAll(() => cluster.stop());

  const engines = ['prefill-0', 'prefill-1', 'decode-0', 'decode-1'];
  const numDescriptors = () =>
    engines.map((name) => readdirSync(`/proc/${cluster.pidOf(name) ?? 'none'}/fd`).length).join();

  test('nothing is left', async () => {
    // Every engine is paired with every other one before descriptors are counted.
    const probe: Body = { prompt: [1, 2, 3], max_tokens: 60, ignore_eos: true, temperature: 0 };
    const before = await ask(cluster.url, probe);
    for (let round = 0; round < 3; round++)
      await Promise.all(Array.from({ length: 12 }, (__, i) => ask(cluster.url, { ...probe, prompt: [1, 2, 3 + i] })));
    await untilIdle(cluster.url);
    const descriptors = numDescriptors();
    const pick = random(11);
    const perRound = NUM_CLIENTS / NUM_ROUNDS;
    for (let round = 0; round < NUM_ROUNDS; round++) {
      await Promise.all(
        Array.from({ length: perRound }, (__, i) => {
          const seed = 900 + round * perRound + i;
          const length = pick(3) === 0 ? 1_500 : 20 + pick(200);
          const prompt = Array.from({ length }, () => 100 + pick(40_000));
          return vanish(cluster.url, { ...randomRequest(seed), prompt, max_tokens: 200, stream: true }, pick(2_500));
        }),
      );
    }
    const startMs = performance.now();
    await untilIdle(cluster.url);
    console.log(`all came back after ${Math.round(performance.now() - startMs)} ms`);
    expect(await metric(cluster.url, 'xllm:handoff_out_total')).toBeGreaterThan(NUM_CLIENTS / 10);
    await eventually(() => numDescriptors() === descriptors, `as many descriptors as before: ${descriptors}`);
    expect(contentOf(await ask(cluster.url, probe))).toEqual(contentOf(before));
  }, 300_000);
});
