// A model with sliding windows on a prefill and a decode instance: two cache groups travel, one without its beginning.
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { metric } from '../support/client.ts';
import { counts, root } from '../support/server.ts';
import { type Cluster, startCluster, transports, untilIdle } from './cluster.ts';
import { type Answer, ask, type Body, contentOf, random, randomRequest } from './requests.ts';

const NUM_REQUESTS = counts(40, 200);
const model = [join(root, 'test/fixtures/golden/gemma3_text'), '--device', 'cpu', '--threads', '1'];
/** Of the small golden model. */
const vocabSize = 200;
let expected: readonly Answer[];

const bodies = Array.from({ length: NUM_REQUESTS }, (_, i): Body => {
  const pick = random(i + 1);
  const { prompt: __, ...rest } = randomRequest(i + 1);
  const prompt = Array.from({ length: 1 + pick(90) }, (___, at) => (at < 20 ? at + 3 : 3 + pick(vocabSize - 3)));
  return { ...rest, prompt, max_tokens: 1 + pick(30) };
});

beforeAll(async () => {
  const alone = await startCluster(1, ...model);
  expected = await Promise.all(bodies.map((body) => ask(alone.url, body)));
  await alone.stop();
  expect(expected.every(({ status, error }) => status === 200 && error === null)).toBe(true);
});

let cluster: Cluster | null = null;
afterAll(() => cluster?.stop());

test.each(transports)(
  '%s',
  async (_, args) => {
    await cluster?.stop();
    cluster = await startCluster('1:1', ...model, ...args);
    const { url } = cluster;
    for (let at = 0; at < bodies.length; at += 10) {
      const answers = await Promise.all(bodies.slice(at, at + 10).map((body) => ask(url, body)));
      answers.forEach((answer, i) =>
        expect(contentOf(answer), `request ${at + i}`).toEqual(contentOf(expected[at + i]!)),
      );
    }
    await untilIdle(url);
    expect(await metric(url, 'xllm:handoff_out_total')).toBeGreaterThan(NUM_REQUESTS / 4);
  },
  300_000,
);
