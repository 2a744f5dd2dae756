// A prefill and a decode instance stopped for longer than any lease, and resumed late, while others need the pages.
import { afterEach, expect, test } from 'vitest';
import { metric } from '../support/client.ts';
import { counts, eventually } from '../support/server.ts';
import { transports, untilIdle } from './cluster.ts';
import { Halves, schedulable, untilSchedulable } from './halves.ts';
import { ask, type Body, contentOf, random, randomRequest } from './requests.ts';

const halves = new Halves();
afterEach(() => halves.stopAll());

/** Longer than the ten seconds that lent pages may be read. */
const STOPPED_MS = 13_000;
const NUM_REQUESTS = counts(12, 40);

function body(seed: number, maxTokens: number): Body {
  const { max_tokens: _, echo: __, ...rest } = randomRequest(seed);
  const pick = random(seed);
  const prompt = Array.from({ length: 100 + pick(300) }, () => 100 + pick(40_000));
  return { ...rest, prompt, max_tokens: maxTokens, stream: true, ignore_eos: true };
}

test.each(transports)(
  '%s',
  async (_, args) => {
    const alone = await halves.service('timed', '--log-level', 'info');
    halves.engine('alone', alone.registersAt);
    await untilSchedulable(alone.url, 'alone');
    const service = await halves.service('timed', '--suspect-timeout-s', '1', '--routing-policy', 'round-robin');
    const start = (name: string, role: string) =>
      halves.engine(
        name,
        service.registersAt,
        '--role',
        role,
        '--kv-cache-memory',
        '256MiB',
        '--max-model-len',
        '4096',
        ...args,
      );
    const [prefill, , decode] = ['p0:prefill', 'p1:prefill', 'd0:decode', 'd1:decode'].map((of) => {
      const [name = '', role = ''] = of.split(':');
      return start(name, role);
    });
    await untilSchedulable(service.url, 'p0', 'p1', 'd0', 'd1');
    const bodies = Array.from({ length: NUM_REQUESTS }, (__, i) => body(i + 1, 20 + 30 * (i % 5)));
    const expected = await Promise.all(bodies.map((one) => ask(alone.url, one)));
    const check = async (ids: string) => {
      const answers = await Promise.all(bodies.map((one, i) => ask(service.url, one, { id: `${ids}-${i}` })));
      answers.forEach((answer, i) => expect(contentOf(answer), `${ids} ${i}`).toEqual(contentOf(expected[i]!)));
    };
    const during = check('during');
    await eventually(
      async () => (await metric(service.url, 'xllm:handoff_in_total')) >= 4,
      'some have been handed over',
    );
    for (const { child } of [prefill!, decode!]) child.kill('SIGSTOP');
    const sinceMs = performance.now();
    await during;
    // New ones too, while the stopped ones may still believe that they have something.
    for (let round = 0; performance.now() - sinceMs < STOPPED_MS; round++) await check(`stopped-${round}`);
    for (const { child } of [prefill!, decode!]) child.kill('SIGCONT');
    await eventually(async () => (await schedulable(service.url)).length === 4, 'all take requests again');
    await check('after');
    await untilIdle(service.url);
    // Nobody found a page that another one had written: that would have ended an engine.
    expect((await schedulable(service.url)).join()).toBe('d0,d1,p0,p1');
  },
  300_000,
);
