// Conversations on four real engine processes: each turn repeats what was said before, and finds it where it was computed.
import { expect, test } from 'vitest';
import { metric } from '../support/client.ts';
import { counts } from '../support/server.ts';
import { startCluster, untilIdle } from './cluster.ts';
import { ask, random } from './requests.ts';

const NUM_CONVERSATIONS = counts(24, 100);
const NUM_TURNS = 5;
const TOKENS_PER_TURN = 320;

interface Outcome {
  readonly hitRate: number;
  readonly meanMs: number;
}

/** Everybody talks at once, thinks for a while, and sends the whole conversation again with more at its end. */
async function converse(policy: string, numInstances: number): Promise<Outcome> {
  const engine = ['--block-size', '64', '--time-scale', '0.1', '--max-model-len', '4096'];
  const cluster = await startCluster(numInstances, '--routing-policy', policy, ...engine);
  const timesMs: number[] = [];
  try {
    await Promise.all(
      Array.from({ length: NUM_CONVERSATIONS }, async (_, conversation) => {
        const pick = random(conversation + 1);
        const prompt: number[] = [];
        for (let turn = 0; turn < NUM_TURNS; turn++) {
          for (let i = 0; i < TOKENS_PER_TURN; i++) prompt.push(100 + pick(40_000));
          await new Promise((resolve) => setTimeout(resolve, 200 + pick(1_500)));
          const sentMs = performance.now();
          const { status, choices } = await ask(cluster.url, {
            prompt,
            max_tokens: 20,
            ignore_eos: true,
            temperature: 0,
          });
          timesMs.push(performance.now() - sentMs);
          expect(status).toBe(200);
          prompt.push(...choices[0]!.tokenIds);
        }
      }),
    );
    await untilIdle(cluster.url);
    const hits = await metric(cluster.url, 'vllm:prefix_cache_hits_total');
    const queries = await metric(cluster.url, 'vllm:prefix_cache_queries_total');
    return { hitRate: hits / queries, meanMs: timesMs.reduce((sum, ms) => sum + ms, 0) / timesMs.length };
  } finally {
    await cluster.stop();
  }
}

test('cache-aware: nearly what one cache hits; round-robin: far less', async () => {
  const shared = await converse('round-robin', 1);
  const turns = await converse('round-robin', 4);
  const aware = await converse('cache-aware', 4);
  const text = ({ hitRate, meanMs }: Outcome) => `${(hitRate * 100).toFixed(1)} % hits, ${meanMs.toFixed(0)} ms`;
  console.log(`one cache: ${text(shared)}; round-robin: ${text(turns)}; cache-aware: ${text(aware)}`);
  // What it gives away are turns that an idle instance answers clearly sooner.
  expect(aware.hitRate).toBeGreaterThan(0.8 * shared.hitRate);
  expect(turns.hitRate).toBeLessThan(0.7 * shared.hitRate);
}, 600_000);
