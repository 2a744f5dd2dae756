// 64 concurrent streams of which a third vanish at random: no error but theirs, nothing left behind.
import { expect, test } from 'vitest';
import { post, readEvents, startServer } from '../fakes/running-server.ts';

const isFull = Boolean(process.env.XLLM_TEST_FULL);
const NUM_STREAMS = 64;
const NUM_ROUNDS = isFull ? 40 : 3;

test('vanishing clients harm nobody', async () => {
  await using server = await startServer({ engine: { stepMs: 1 } });
  let state = 12_345;
  const random = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
  const stream = (body: object, signal?: AbortSignal) =>
    fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...body, stream: true, ignore_eos: true }),
      ...(signal ? { signal } : {}),
    });
  let numWhole = 0;
  let numVanished = 0;
  const client = async (index: number) => {
    const messages = [{ role: 'user', content: `number ${index}` }];
    const maxTokens = 5 + Math.floor(random() * 40);
    if (random() < 1 / 3) {
      const abort = new AbortController();
      const delayMs = random() * 60;
      setTimeout(() => abort.abort(), delayMs);
      await stream({ messages, max_tokens: 2000 }, abort.signal).then(
        (reply) => reply.text().catch(() => ''),
        () => '',
      );
      numVanished++;
      return;
    }
    const events = await readEvents(await stream({ messages, max_tokens: maxTokens }));
    expect(events.at(-1)).toBe('[DONE]');
    expect(events.at(-2)).toMatchObject({ choices: [{ finish_reason: 'length' }] });
    numWhole++;
  };
  let isDone = false;
  const watch = async () => {
    while (!isDone) {
      expect((await fetch(`${server.url}/health`)).status).toBe(200);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  const watching = watch();
  for (let round = 0; round < NUM_ROUNDS; round++)
    await Promise.all(Array.from({ length: NUM_STREAMS }, (_, i) => client(round * NUM_STREAMS + i)));
  isDone = true;
  await watching;
  expect(numVanished).toBeGreaterThan(0);
  expect(numWhole + numVanished).toBe(NUM_STREAMS * NUM_ROUNDS);
  const deadline = performance.now() + 60_000;
  while ((server.engine.numRunning > 0 || server.server.numRunning() > 0) && performance.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, 10));
  expect({ engine: server.engine.numRunning, http: server.server.numRunning() }).toEqual({ engine: 0, http: 0 });
  expect((await post(`${server.url}/v1/completions`, { prompt: 'a', max_tokens: 1 })).status).toBe(200);
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  expect(metrics).toContain('xllm:http_streams_open 0');
});
