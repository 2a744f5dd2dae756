// One service in front of several models: who serves what, as engines come, go, are replaced and die.
import { afterEach, expect, test } from 'vitest';
import { complete } from '../support/client.ts';
import { eventually } from '../support/server.ts';
import { lifeOf } from './cluster.ts';
import { clusterOf, Halves, modelsOf, schedulable, untilSchedulable } from './halves.ts';
import { ask } from './requests.ts';

const halves = new Halves();
afterEach(() => halves.stopAll());

const body = { prompt: [1, 2, 3], max_tokens: 3, temperature: 0, ignore_eos: true };
const isReady = async (url: string) => (await fetch(`${url}/ready`)).ok;

test('models are those registered, and requests go to them by name', async () => {
  const { url, registersAt } = await halves.service();
  expect(await modelsOf(url)).toEqual([]);
  expect(await isReady(url)).toBe(false);
  expect((await complete(url, { ...body, model: 'alpha' })).error?.code).toBe('engine_unavailable');
  halves.engine('a1', registersAt, '--model-name', 'alpha');
  const beta = halves.engine('b1', registersAt, '--model-name', 'beta');
  await untilSchedulable(url, 'a1', 'b1');
  await eventually(async () => (await modelsOf(url)).join() === 'alpha,beta', 'both models are listed');
  expect(await isReady(url)).toBe(true);

  for (const [model, instance] of [
    ['alpha', 'a1'],
    ['beta', 'b1'],
  ] as const) {
    const answer = await ask(url, { ...body, model }, { id: `ask-${model}` });
    expect(answer.choices[0]?.tokenIds).toHaveLength(3);
    expect((await lifeOf(url, answer.id))?.prompts[0]?.events[0]?.instance).toBe(instance);
  }
  const stranger = await complete(url, { ...body, model: 'gamma' });
  expect(stranger).toMatchObject({ status: 404, error: { code: 'model_not_found' } });
  expect(stranger.error?.message).toContain('alpha, beta');
  const nameless = await complete(url, body);
  expect(nameless).toMatchObject({ status: 400, error: { code: 'invalid_request' } });
  expect(nameless.error?.message).toContain('alpha, beta');

  // Another instance of one, while the service runs.
  halves.engine('a2', registersAt, '--model-name', 'alpha');
  await untilSchedulable(url, 'a1', 'a2', 'b1');
  expect(await modelsOf(url)).toEqual(['alpha', 'beta']);

  beta.child.kill('SIGKILL');
  await eventually(async () => (await modelsOf(url)).join() === 'alpha', 'a model goes with its last instance');
  expect((await complete(url, { ...body, model: 'beta' })).status).toBe(404);
  expect((await complete(url, body)).tokenIds).toHaveLength(3);
  halves.engine('b1', registersAt, '--model-name', 'beta');
  await eventually(async () => (await modelsOf(url)).join() === 'alpha,beta', 'and comes back with the next');
  expect((await complete(url, { ...body, model: 'beta' })).tokenIds).toHaveLength(3);
});

test('a second process of the same name replaces the first, whose end changes nothing then', async () => {
  const { url, registersAt } = await halves.service();
  const lives = async () => (await clusterOf(url)).instances.map(({ incarnation }) => incarnation);
  const first = halves.engine('same', registersAt);
  await untilSchedulable(url, 'same');
  const [before] = await lives();
  halves.engine('same', registersAt);
  await eventually(async () => (await lives())[0] !== before, 'the second has taken over');
  await untilSchedulable(url, 'same');
  const after = await lives();
  expect(after).toHaveLength(1);
  first.child.kill('SIGTERM');
  expect(await first.exited).toBe(0);
  expect(await lives()).toEqual(after);
  expect(await schedulable(url)).toEqual(['same']);
  expect((await complete(url, body)).tokenIds).toHaveLength(3);
});

test('an instance that is told to stop leaves at once, one that is stopped is suspect until it goes on', async () => {
  const { url, registersAt, output } = await halves.service();
  const leaving = halves.engine('leaving', registersAt);
  const staying = halves.engine('staying', registersAt);
  await untilSchedulable(url, 'leaving', 'staying');
  leaving.child.kill('SIGTERM');
  expect(await leaving.exited).toBe(0);
  await eventually(async () => (await clusterOf(url)).instances.length === 1, 'it is not listed any more');
  expect(output()).not.toMatch(/leaving is suspect/);

  const [known] = (await clusterOf(url)).instances;
  staying.child.kill('SIGSTOP');
  await eventually(async () => (await clusterOf(url)).instances[0]?.state === 'SUSPECT', 'it is suspect');
  expect(await isReady(url)).toBe(false);
  expect((await complete(url, body)).error?.code).toBe('engine_unavailable');
  const figures = await (await fetch(`${url}/metrics`)).text();
  expect(figures).toContain('xllm:instance_state{model_name="timed",engine="staying",state="SUSPECT"} 1');
  expect(figures).toContain('xllm:instance_schedulable{model_name="timed",engine="staying"} 0');
  staying.child.kill('SIGCONT');
  await eventually(async () => (await clusterOf(url)).instances[0]?.state === 'ACTIVE', 'it is active again');
  expect((await clusterOf(url)).instances[0]?.incarnation).toBe(known?.incarnation);
  expect((await complete(url, body)).tokenIds).toHaveLength(3);
});

test('the index knows what each cache holds, and forgets it with the instance', async () => {
  const { url, registersAt } = await halves.service();
  const engine = halves.engine('e', registersAt);
  await untilSchedulable(url, 'e');
  const numCached = async () => (await clusterOf(url)).instances[0]?.cached_blocks;
  const prompt = Array.from({ length: 100 }, (_, i) => i);
  await complete(url, { ...body, prompt });
  // 102 positions are computed of 100 + 3 tokens: six full blocks of 16.
  await eventually(async () => (await numCached()) === 6, 'six blocks are known');
  engine.child.kill('SIGKILL');
  halves.engine('e', registersAt);
  await eventually(async () => (await numCached()) === 0 && (await schedulable(url)).length === 1, 'all is new');
});

test('xllm status shows it', async () => {
  const { url, registersAt } = await halves.service();
  const status = async (...args: string[]) => {
    const program = halves.start(['status', '--url', url, ...args]);
    const code = await program.exited;
    return { code, text: program.output() };
  };
  expect(await status()).toEqual({ code: 1, text: expect.stringContaining('No instance is known') });
  halves.engine('e0', registersAt, '--model-name', 'alpha');
  halves.engine('e1', registersAt, '--model-name', 'beta', '--role', 'prefill');
  await untilSchedulable(url, 'e0', 'e1');
  await eventually(async () => (await modelsOf(url)).join() === 'alpha', 'a lone prefill instance serves nobody');
  const { code, text } = await status();
  expect(code).toBe(0);
  expect(text).toMatch(/^ready: alpha$/m);
  expect(text).toMatch(/^e0 +alpha +mix +ACTIVE +0\+0 /m);
  expect(text).toMatch(/^e1 +beta +prefill +ACTIVE +0\+0 /m);
  const json = JSON.parse((await status('--json')).text) as { instances: { name: string }[] };
  expect(json.instances.map(({ name }) => name)).toEqual(['e0', 'e1']);
  const nobody = halves.start(['status', '--url', 'http://127.0.0.1:1']);
  expect(await nobody.exited).toBe(2);
  expect(nobody.output()).toMatch(/no server answers at http:\/\/127\.0\.0\.1:1/);
});
