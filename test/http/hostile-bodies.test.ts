// Seeded hostile bodies: every one gets a clear answer, none a 500, and the server goes on, no larger than before.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Json, post, type RunningServer, startServer } from '../fakes/running-server.ts';

const NUM_BODIES = process.env.XLLM_TEST_FULL ? 10_000 : 500;

const PATHS = ['/v1/chat/completions', '/v1/completions', '/tokenize', '/detokenize'] as const;

/** Names the schemas know, so that hostile values get behind the first check. */
const FIELDS = `
  messages prompt model n temperature top_p top_k min_p stop seed logit_bias max_tokens
  max_completion_tokens min_tokens stream stream_options logprobs top_logprobs echo suffix best_of
  stop_token_ids ignore_eos tools response_format tokens priority chat_template_kwargs
  add_generation_prompt continue_final_message cache_salt return_token_ids frequency_penalty
  presence_penalty repetition_penalty offline ttft_slo_ms constructor toString hasOwnProperty
  skip_special_tokens include_stop_str_in_output reasoning_effort user`
  .trim()
  .split(/\s+/);

const hostileNumber = fc.oneof(
  fc.constantFrom(0, -0, -1, 1, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 53), 1e308, 1e-308, 0.1, 255, 256, 319, 320),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.integer(),
);
const hostileString = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    '',
    '\ud800',
    '\u0000',
    '</s>',
    '<|turn|>',
    'a'.repeat(5000),
    '__proto__',
    '🗼'.repeat(50),
    'fake-model',
  ),
);
const hostile = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    hostileNumber,
    hostileString,
    fc.boolean(),
    fc.constant(null),
    fc.array(tie('value'), { maxLength: 5 }),
    fc.dictionary(fc.oneof(hostileString, fc.constantFrom('role', 'content', 'type', 'text')), tie('value'), {
      maxKeys: 4,
    }),
    fc.record({ role: fc.constantFrom('user', 'assistant', 'system', 'tool'), content: tie('value') }),
    fc.array(fc.integer({ min: -2, max: 330 }), { maxLength: 30 }),
  ),
})).value;

/** A request that would be served, with some fields replaced. */
const mutated = fc
  .tuple(fc.dictionary(fc.constantFrom(...FIELDS), hostile, { maxKeys: 5 }), fc.boolean())
  .map(([fields, isBare]) =>
    JSON.stringify(
      isBare
        ? fields
        : { messages: [{ role: 'user', content: 'hi' }], prompt: 'hi', tokens: [1], max_tokens: 3, ...fields },
    ),
  );

const garbage = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc.json({ maxDepth: 4 }),
  fc.tuple(mutated, fc.nat(), fc.string({ maxLength: 3 })).map(([text, at, insert]) => {
    const cut = at % (text.length + 1);
    return text.slice(0, cut) + insert;
  }),
  fc.integer({ min: 1, max: 20_000 }).map((depth) => '['.repeat(depth)),
  fc.integer({ min: 1, max: 5_000 }).map((depth) => `{"prompt":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}`),
  fc.constantFrom('{"prompt":1e999}', '{"seed":123456789012345678901234567890}', '{"__proto__":{"n":2},"prompt":"a"}'),
);

const oneCase = fc.record({
  path: fc.constantFrom(...PATHS),
  body: fc.oneof({ weight: 3, arbitrary: mutated }, { weight: 1, arbitrary: garbage }),
});

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** What the server holds once the fakes have dropped their records. */
async function heldBytes({ engine, lines }: RunningServer): Promise<number> {
  engine.forget();
  lines.length = 0;
  // Sockets and timers let go of their requests a turn later; two collections reach what finalizers release.
  for (let i = 0; i < 2; i++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    collectGarbage();
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/**
 * What code that first runs in the second half takes (0.3 MiB at 250 bodies, below 0.1 at 5,000), and a quarter of the
 * smallest leak worth the name: 1 KiB per request breaks the bound at full counts.
 */
const NOISE_BYTES = 2 ** 20;
const LEAK_BYTES = 256;

test(`${NUM_BODIES} hostile bodies: no 500, no crash, no hang, no growth`, async () => {
  await using server = await startServer({ engine: { maxModelLen: 128, tokensPerStep: 16 } });
  const statuses = new Map<number, number>();
  // As bytes: strings that were joined of pieces grow when they are first read as a whole.
  const cases = fc
    .sample(oneCase, { numRuns: NUM_BODIES, seed: 20_261_123 })
    .map(({ path, body }) => ({ path, body: Buffer.from(body) }));
  const send = async ({ path, body }: (typeof cases)[number]) => {
    const reply = await fetch(server.url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    });
    const text = await reply.text();
    const shown = `${path} ${body.toString('utf8', 0, 300)} → ${reply.status} ${text.slice(0, 300)}`;
    expect([200, 400, 404, 413], shown).toContain(reply.status);
    if (reply.status !== 200) {
      const { error } = JSON.parse(text) as Json;
      expect(error, shown).toMatchObject({
        code: expect.any(String) as unknown,
        message: expect.any(String) as unknown,
      });
    } else if (reply.headers.get('content-type')?.startsWith('text/event-stream')) {
      expect(text, shown).toMatch(/data: \[DONE\]\n\n$/);
    }
    statuses.set(reply.status, (statuses.get(reply.status) ?? 0) + 1);
  };
  const sendAll = async (some: typeof cases) => {
    const queue = [...some];
    const worker = async () => {
      for (let next = queue.pop(); next; next = queue.pop()) await send(next);
    };
    await Promise.all(Array.from({ length: 8 }, worker));
  };
  const half = NUM_BODIES / 2;
  await sendAll(cases.slice(0, half));
  const heldAtHalf = await heldBytes(server);
  await sendAll(cases.slice(half));
  const growth = (await heldBytes(server)) - heldAtHalf;
  console.log(`${half} further bodies: ${(growth / 1024).toFixed(0)} KiB more held`);
  expect(growth).toBeLessThan(NOISE_BYTES + LEAK_BYTES * half);
  // The fuzz reaches both sides of the checks.
  expect(statuses.get(200)).toBeGreaterThan(NUM_BODIES / 50);
  expect(statuses.get(400)).toBeGreaterThan(NUM_BODIES / 50);
  expect(({} as { n?: unknown }).n).toBeUndefined();
  expect(server.engine.numRunning).toBe(0);
  expect((await post(`${server.url}/v1/completions`, { prompt: 'a', max_tokens: 1 })).status).toBe(200);
});
