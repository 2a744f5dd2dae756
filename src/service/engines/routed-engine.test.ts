// Recovery over a pool of fakes: the urgent first, patience where there is nobody, no patience where there is none to have.
import { create } from '@bufbuild/protobuf';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { isRefusal } from '../../common/errors.ts';
import { SamplingSchema } from '../../contract/generated/xllm_pb.js';
import { type EngineDelta, type EngineModel, type EngineRequest, ordinaryRequest } from '../engine-client.ts';
import { clusterOf, instanceView } from '../routing/testing/clusters.ts';
import { emptyDelta } from './delta-codec.ts';
import { defaultRouting, RoutedEngine, type RoutedInstances } from './routed-engine.ts';

const model: EngineModel = {
  model: 'm',
  modelPath: '',
  vocabSize: 100,
  maxModelLen: 16_384,
  stopTokenIds: [],
  numericsId: 'n',
  instance: '',
  summary: {},
};

/** Instances that take everything and generate nothing. */
class Instances implements RoutedInstances {
  readonly models = [model];
  readonly alive = new Set<string>();
  readonly taken: { readonly instance: string; readonly id: string; readonly onDelta: (delta: EngineDelta) => void }[] =
    [];
  readonly #listeners = new Set<() => void>();

  view() {
    return clusterOf([...this.alive].sort().map((name) => ({ view: instanceView(name), heldBlocks: 0 })));
  }

  connection(name: string) {
    if (!this.alive.has(name)) return null;
    return {
      model,
      submit: async (attempt: EngineRequest, onDelta: (delta: EngineDelta) => void) => {
        this.taken.push({ instance: name, id: attempt.requestId, onDelta });
        return { abort: () => {}, pause: () => {}, resume: () => {}, keep: () => {}, moveTo: () => {} };
      },
      expect: () => {
        throw new Error('nothing is handed over here');
      },
    };
  }

  statuses() {
    return Promise.resolve([]);
  }

  onAvailable(listener: () => void) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  onDraining() {
    return () => {};
  }

  drain() {
    return Promise.resolve();
  }

  start(name: string): void {
    this.alive.add(name);
    for (const listener of this.#listeners) listener();
  }

  kill(name: string): void {
    this.alive.delete(name);
    const error = { refused: 'engine_lost', message: 'it died' } as const;
    for (const { instance, onDelta } of this.taken.splice(0)) {
      if (instance === name) onDelta({ ...emptyDelta(0), finish: 'error', error });
    }
  }
}

let instances: Instances;
const ends: string[] = [];
beforeEach(() => {
  instances = new Instances();
  instances.start('a');
  ends.length = 0;
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

async function submit(engine: RoutedEngine, id: string, more: Partial<EngineRequest> = {}): Promise<void> {
  const request: EngineRequest = {
    ...ordinaryRequest,
    requestId: id,
    model: 'm',
    promptIds: Int32Array.of(1, 2, 3),
    sampling: create(SamplingSchema, { numPromptLogprobs: -1 }),
    maxTokens: 5,
    seeds: [1n],
    ...more,
  };
  const handle = await engine.submit(request, ({ finish, error }) => {
    if (finish !== null) ends.push(`${id} ${error?.refused ?? finish}`);
  });
  if (isRefusal(handle)) throw new Error(handle.message);
}

const engineWith = (recoveryWaitMs: number) =>
  new RoutedEngine(instances, { nowMs: () => performance.now() }, { ...defaultRouting, recoveryWaitMs });

test('online before offline, then by priority, then by age', async () => {
  const engine = engineWith(0);
  await submit(engine, 'offline', { offline: true, priority: -9 });
  await submit(engine, 'second', { priority: 1 });
  await submit(engine, 'third', { priority: 1 });
  await submit(engine, 'first', { priority: -1 });
  instances.start('b');
  instances.kill('a');
  await vi.advanceTimersByTimeAsync(10);
  expect(instances.taken.map(({ instance, id }) => `${id} ${instance}`)).toEqual([
    'first b',
    'second b',
    'third b',
    'offline b',
  ]);
  expect(ends).toEqual([]);
  engine.close();
});

test('where there is nobody else a request waits, and goes on as soon as somebody is there', async () => {
  const engine = engineWith(30_000);
  await submit(engine, 'r');
  instances.kill('a');
  await vi.advanceTimersByTimeAsync(20_000);
  expect([instances.taken.length, ends.length]).toEqual([0, 0]);
  instances.start('c');
  await vi.advanceTimersByTimeAsync(10);
  expect(instances.taken.map(({ instance }) => instance)).toEqual(['c']);
  expect(engine.explain('r')[0]?.events.map(({ event }) => event)).toEqual([
    'routed',
    'admitted',
    'lost',
    'routed',
    'admitted',
  ]);
  engine.close();
});

test('it waits no longer than it may', async () => {
  const engine = engineWith(5_000);
  await submit(engine, 'r');
  instances.kill('a');
  await vi.advanceTimersByTimeAsync(4_000);
  expect(ends).toEqual([]);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(ends).toEqual(['r engine_lost']);
  expect(engine.figures).toMatchObject({ numRecoveries: 0, numRecoveryFailures: 1 });
});

test('with one instance and nothing to wait for it fails at once', async () => {
  const engine = engineWith(0);
  await submit(engine, 'r');
  instances.kill('a');
  await vi.advanceTimersByTimeAsync(10);
  expect(ends).toEqual(['r engine_lost']);
});

test('no request lives for ever, also where no engine ends it', async () => {
  const engine = engineWith(0);
  await submit(engine, 'r', { deadlineMs: 60_000 });
  await vi.advanceTimersByTimeAsync(70_000);
  expect(ends).toEqual(['r deadline_exceeded']);
});
