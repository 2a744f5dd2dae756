// 64 concurrent streams, a third of the clients vanishing at random: no error but theirs, every page back, flat memory.
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { metric, stream } from '../support/client.ts';
import { counts, eventually, startServer, type TestServer } from '../support/server.ts';

const NUM_STREAMS = 64;
const durationMs = counts(15_000, 120_000);
let server: TestServer;

beforeAll(async () => {
  server = await startServer(['--max-model-len', '2048', '--log-level', 'warn']);
});
afterAll(() => server.stop());

/** A small seeded generator: which client does what is the same in every run. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const rssMb = (pid: number) => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;

test('vanishing clients harm nobody', async () => {
  const end = performance.now() + durationMs;
  let numAnswered = 0;
  let numVanished = 0;
  const problems: string[] = [];
  const memory: { seconds: number; engineMb: number; serviceMb: number }[] = [];
  const enginePid = server.enginePid();
  const servicePid = server.child.pid ?? -1;
  const worker = async (seed: number) => {
    const next = random(seed);
    while (performance.now() < end) {
      const numPrompt = 4 + Math.floor(next() * 100);
      const maxTokens = 4 + Math.floor(next() * 40);
      const vanishAfter = next() < 1 / 3 ? 1 + Math.floor(next() * maxTokens) : Number.POSITIVE_INFINITY;
      const prompt = Array.from({ length: numPrompt }, () => 100 + Math.floor(next() * 40_000));
      const answer = await stream(
        server.url,
        { prompt, max_tokens: maxTokens, ignore_eos: true, temperature: 1, seed },
        (n) => n < vanishAfter,
      );
      if (vanishAfter <= maxTokens) numVanished++;
      else if (
        answer.error ||
        answer.tokenIds.length !== maxTokens ||
        answer.finishReason !== 'length' ||
        !answer.sawDone
      ) {
        problems.push(JSON.stringify(answer));
      } else numAnswered++;
    }
  };
  const watch = async () => {
    const start = performance.now();
    while (performance.now() < end) {
      const health = await fetch(`${server.url}/health`);
      if (!health.ok) problems.push(`/health said ${health.status}`);
      memory.push({
        seconds: (performance.now() - start) / 1000,
        engineMb: rssMb(enginePid),
        serviceMb: rssMb(servicePid),
      });
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  };
  await Promise.all([watch(), ...Array.from({ length: NUM_STREAMS }, (_, i) => worker(i + 1))]);
  expect(problems).toEqual([]);
  expect(numVanished).toBeGreaterThan(0);
  expect(numAnswered).toBeGreaterThan(NUM_STREAMS);
  // What a vanished client held comes back: nothing runs, and no page is held by a sequence.
  await eventually(async () => (await metric(server.url, 'vllm:num_requests_running')) === 0, 'every request ended');
  await eventually(async () => (await metric(server.url, 'vllm:kv_cache_usage_perc')) === 0, 'every page came back');

  const half = memory.slice(Math.floor(memory.length / 2));
  const slope = (key: 'engineMb' | 'serviceMb') =>
    ((half.at(-1)?.[key] ?? 0) - (half[0]?.[key] ?? 0)) /
    Math.max(1, (half.at(-1)?.seconds ?? 0) - (half[0]?.seconds ?? 0));
  console.log(
    `${numAnswered} answered, ${numVanished} vanished; memory slope in the second half: engine ${slope('engineMb').toFixed(2)} MB/s, ` +
      `service ${slope('serviceMb').toFixed(2)} MB/s; at the end ${memory.at(-1)?.engineMb.toFixed(0)} and ${memory.at(-1)?.serviceMb.toFixed(0)} MB`,
  );
  // A leak of one token's objects per token would show as several MB/s.
  expect(slope('engineMb')).toBeLessThan(2);
  expect(slope('serviceMb')).toBeLessThan(2);
}, 300_000);
