// 32 requests on one 1,024-token prefix: only the first computes it (acceptance: metrics show it, TTFT falls).
import { afterAll, beforeAll, expect, test } from 'vitest';
import { metric, stream } from '../support/client.ts';
import { startServer, type TestServer } from '../support/server.ts';

const NUM_PREFIX = 1024;
const NUM_REQUESTS = 32;
let server: TestServer;

beforeAll(async () => {
  server = await startServer(['--max-model-len', '2048']);
});
afterAll(() => server.stop());

test('only the first request computes a shared prefix', async () => {
  const prefix = Array.from({ length: NUM_PREFIX }, (_, i) => 1000 + ((i * 7919) % 40_000));
  const ask = (i: number) =>
    stream(server.url, { prompt: [...prefix, 500 + i, 600 + i], max_tokens: 4, temperature: 0, ignore_eos: true });
  const hitsBefore = await metric(server.url, 'vllm:prefix_cache_hits_total');
  const first = await ask(0);
  const second = await ask(1);
  const rest = await Promise.all(Array.from({ length: NUM_REQUESTS - 2 }, (_, i) => ask(i + 2)));
  for (const answer of [first, second, ...rest]) expect(answer.tokenIds).toHaveLength(4);
  const hits = (await metric(server.url, 'vllm:prefix_cache_hits_total')) - hitsBefore;
  expect(hits).toBeGreaterThanOrEqual((NUM_REQUESTS - 1) * NUM_PREFIX);
  console.log(`TTFT of the first ${first.ttftMs.toFixed(0)} ms, of the second ${second.ttftMs.toFixed(0)} ms`);
  expect(first.ttftMs / second.ttftMs).toBeGreaterThan(5);
});
