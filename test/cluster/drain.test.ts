// An instance is drained under load: nobody's answer changes, what ran there goes on elsewhere, and it exits by itself.
import { afterEach, expect, test } from 'vitest';
import { counts, eventually, runProgram, type RunningProgram } from '../support/server.ts';
import { type Cluster, lifeOf, startCluster, untilIdle } from './cluster.ts';
import { clusterOf, Halves, type Service, untilSchedulable } from './halves.ts';
import { type Answer, ask, type Body, contentOf, random, randomRequest } from './requests.ts';

const halves = new Halves();
const clusters: Cluster[] = [];
afterEach(async () => {
  await Promise.all(clusters.splice(0).map(({ stop }) => stop()));
  await halves.stopAll();
});

async function startAlone(): Promise<Cluster> {
  const alone = await startCluster(1, '--time-scale', '0.02');
  clusters.push(alone);
  return alone;
}

function drain(name: string, url: string, ...flags: string[]): RunningProgram {
  return runProgram(['drain', name, '--url', url, ...flags]);
}

function post(url: string, body: unknown): Promise<Response> {
  const headers = { 'content-type': 'application/json' };
  return fetch(`${url}/v1/cluster/drain`, { method: 'POST', headers, body: JSON.stringify(body) });
}

function tokens(seed: number, length: number): number[] {
  const pick = random(seed + 7_000);
  return Array.from({ length }, () => 100 + pick(40_000));
}

/** Of all kinds, long enough to be there when the instance goes. */
function longRequest(seed: number): Body {
  return {
    ...randomRequest(seed),
    prompt: tokens(seed, 20 + (seed % 5) * 60),
    max_tokens: 150,
    stream: true,
    echo: false,
  };
}

interface Watched {
  readonly id: string;
  readonly answer: Promise<Answer>;
  /** When each event of the stream came. */
  readonly timesMs: number[];
}

function watch(url: string, id: string, body: Body): Watched {
  const timesMs: number[] = [];
  return { id, timesMs, answer: ask(url, body, { id, onEvent: () => timesMs.push(performance.now()) }) };
}

/** Longest wait for anything of a stream after `sinceMs`. */
function longestGapMs({ timesMs }: Watched, sinceMs: number): number {
  const gaps = timesMs.slice(1).map((atMs, i) => (atMs >= sinceMs ? atMs - (timesMs[i] ?? atMs) : 0));
  return Math.max(0, ...gaps);
}

const list = (values: readonly number[]) => values.map((value) => value.toFixed(0)).join(' ');

/** Moves of a request, none of which may have been a loss. */
async function movesOf(url: string, request: Watched, sinceMs: number) {
  const events = (await lifeOf(url, request.id))?.prompts[0]?.events ?? [];
  expect(events.filter(({ event }) => event === 'lost' || event === 'failed')).toEqual([]);
  return events
    .filter(({ event }) => event === 'moved')
    .map(({ detail }) => ({ pauseMs: Number(detail['pauseMs']), gapMs: longestGapMs(request, sinceMs) }));
}

async function startService(names: readonly string[], ...flags: string[]): Promise<[Service, RunningProgram[]]> {
  const service = await halves.service('--routing-policy', 'least-load');
  const engines = names.map((name) => halves.engine(name, service.registersAt, '--time-scale', '1', ...flags));
  await untilSchedulable(service.url, ...names);
  return [service, engines];
}

test('under load: no request fails or changes, and the instance exits by itself', async () => {
  const alone = await startAlone();
  for (let round = 0; round < counts(1, 5); round++) {
    const [service, engines] = await startService(['a', 'b', 'c']);
    const bodies = Array.from({ length: 18 }, (_, i) => longRequest(1_000 * round + i));
    const expected = await Promise.all(bodies.map((body) => ask(alone.url, body)));
    const watched = bodies.map((body, i) => watch(service.url, `r${round}-${i}`, body));
    await eventually(() => watched.every(({ timesMs }) => timesMs.length > 5), 'all of them decode');
    const sinceMs = performance.now();
    const draining = drain('a', service.url);
    // Asked twice it is the same, and it is said of the instance.
    await eventually(async () => {
      const a = (await clusterOf(service.url)).instances.find(({ name }) => name === 'a');
      return !a || (a.draining && !a.schedulable);
    }, 'it is shown to drain');
    const again = await post(service.url, { instance: 'a' });
    expect([200, 404]).toContain(again.status);
    expect(await draining.exited, draining.output()).toBe(0);
    expect(draining.output()).toMatch(/a has left/);
    expect(await engines[0]?.exited, engines[0]?.output()).toBe(0);
    const answers = await Promise.all(watched.map(({ answer }) => answer));
    answers.forEach((answer, i) => expect(contentOf(answer), watched[i]?.id).toEqual(contentOf(expected[i]!)));
    const moves = await Promise.all(watched.map((request) => movesOf(service.url, request, sinceMs)));
    const moved = moves.flat();
    expect(moved.length).toBeGreaterThan(2);
    const { instances, migrations, recoveries } = await clusterOf(service.url);
    expect([instances.map(({ name }) => name), migrations, recoveries]).toEqual([['b', 'c'], moved.length, 0]);
    const others = watched.filter((_, i) => moves[i]?.length === 0).map((request) => longestGapMs(request, sinceMs));
    console.log(
      `${moved.length} moved, pauses of ${list(moved.map(({ pauseMs }) => pauseMs))} ms;`,
      `longest gaps of their streams ${list(moved.map(({ gapMs }) => gapMs))} ms, of the others' ${list(others)} ms`,
    );
    await untilIdle(service.url);
    await halves.stopAll();
  }
}, 600_000);

test('the only instance that can serve a model is not let go, unless by force: then what runs there ends there', async () => {
  const alone = await startAlone();
  const [service, engines] = await startService(['a', 'b']);
  const unknown = drain('z', service.url);
  expect(await unknown.exited).toBe(1);
  expect(unknown.output()).toMatch(/no instance z; known: a, b/);
  expect((await post(service.url, { instance: 'z' })).status).toBe(404);
  expect((await post(service.url, {})).status).toBe(400);
  expect(await drain('b', service.url).exited).toBe(0);
  expect(await engines[1]?.exited).toBe(0);
  const body = { ...longRequest(3), max_tokens: 300 };
  const request = watch(service.url, 'last', body);
  await eventually(() => request.timesMs.length > 5, 'it decodes');
  const refused = drain('a', service.url);
  expect(await refused.exited).toBe(1);
  expect(refused.output()).toMatch(/Without a nothing can serve timed: start another instance first, or force it/);
  const reply = await post(service.url, { instance: 'a' });
  expect([reply.status, await reply.json()]).toMatchObject([409, { error: { code: 'last_instance' } }]);
  expect((await clusterOf(service.url)).instances[0]).toMatchObject({ name: 'a', draining: false });
  const forced = drain('a', service.url, '--force');
  await eventually(async () => (await clusterOf(service.url)).instances[0]?.draining, 'it drains');
  expect((await ask(service.url, { prompt: [1], max_tokens: 1 })).status).toBe(503);
  expect(contentOf(await request.answer)).toEqual(contentOf(await ask(alone.url, body)));
  expect(await forced.exited, forced.output()).toBe(0);
  expect(await engines[0]?.exited).toBe(0);
}, 300_000);

test('an engine of `xllm serve` that was drained is not started again', async () => {
  const cluster = await startCluster(2, '--time-scale', '0.3');
  clusters.push(cluster);
  const body = { ...longRequest(4), max_tokens: 200 };
  const requests = [0, 1, 2, 3].map((i) => watch(cluster.url, `s${i}`, { ...body, seed: i }));
  await eventually(() => requests.every(({ timesMs }) => timesMs.length > 3), 'they decode');
  const pid = cluster.pidOf('engine-0');
  expect(pid).toBeDefined();
  expect(await drain('engine-0', cluster.url).exited).toBe(0);
  await eventually(() => cluster.pidOf('engine-0') === undefined, 'its process is gone');
  for (const { answer } of requests) expect((await answer).error).toBe(null);
  // Longer than a restart would take to be decided.
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  expect(cluster.pidOf('engine-0')).toBeUndefined();
  expect((await ask(cluster.url, { prompt: [1], max_tokens: 1 })).status).toBe(200);
  await untilIdle(cluster.url);
}, 300_000);

test('an engine that gets SIGTERM hands its requests on as well', async () => {
  const alone = await startAlone();
  const [service, engines] = await startService(['a', 'b']);
  const bodies = Array.from({ length: 6 }, (_, i) => ({ ...longRequest(50 + i), max_tokens: 400 }));
  const watched = bodies.map((body, i) => watch(service.url, `t${i}`, body));
  await eventually(() => watched.every(({ timesMs }) => timesMs.length > 3), 'all of them decode');
  const sinceMs = performance.now();
  engines[0]?.child.kill('SIGTERM');
  expect(await engines[0]?.exited).toBe(0);
  const answers = await Promise.all(watched.map(({ answer }) => answer));
  const moves = await Promise.all(watched.map((request) => movesOf(service.url, request, sinceMs)));
  expect(moves.flat().length).toBeGreaterThan(0);
  for (const [i, body] of bodies.entries())
    expect(contentOf(answers[i]!), `t${i}`).toEqual(contentOf(await ask(alone.url, body)));
}, 300_000);
