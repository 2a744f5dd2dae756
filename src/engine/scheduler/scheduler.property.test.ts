// Whatever is batched, chunked, preempted, cached, aborted or scheduled ahead: each sequence gets its own output.
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import type { CacheGroup } from '../kv/cache-group.ts';
import type { SamplingParams } from './sampling-params.ts';
import type { SequenceSpec } from './spec.ts';
import { cacheGroup, defaultParams, makeSpec, type Outcome, paged, runAlone, TestEngine } from './testing/harness.ts';

const isFull = Boolean(process.env['XLLM_TEST_FULL']);
// The full counts take minutes on a busy machine.
vi.setConfig({ testTimeout: 1_200_000 });
const setups: Readonly<Record<string, readonly CacheGroup[]>> = {
  paged: [paged],
  'paged and window': [paged, cacheGroup({ type: 'window', numTokens: 10 })],
  window: [cacheGroup({ type: 'window', numTokens: 7 })],
};

const params: fc.Arbitrary<SamplingParams> = fc
  .record({
    temperature: fc.constantFrom(0, 1),
    repetitionPenalty: fc.constantFrom(1, 1, 1, 1.5),
    minTokens: fc.constantFrom(0, 0, 5),
    maxTokens: fc.integer({ min: 0, max: 24 }),
    ignoreEos: fc.boolean(),
    stopTokenIds: fc.constantFrom([], [], [3, 4]),
    numLogprobs: fc.constantFrom(-1, -1, 0, 2),
    numPromptLogprobs: fc.constantFrom(-1, -1, -1, -1, 1),
  })
  .map((chosen) => ({ ...defaultParams, ...chosen }));

interface Client {
  readonly spec: SequenceSpec;
  readonly arrivalStep: number;
  /** Steps after arrival; -1: never. */
  readonly abortAfter: number;
  readonly pauseAfter: number;
  readonly pauseSteps: number;
}

function clients(maxPrompt: number, maxArrival: number): fc.Arbitrary<Client> {
  return fc
    .record({
      shared: fc.integer({ min: 0, max: maxPrompt }),
      own: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 12 }),
      params,
      seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      priority: fc.integer({ min: -1, max: 1 }),
      offline: fc.constantFrom(false, false, true),
      cacheSalt: fc.constantFrom('', '', 'tenant'),
      group: fc.constantFrom(-1, -1, 1),
      arrivalStep: fc.integer({ min: 0, max: maxArrival }),
      abortAfter: fc.constantFrom(-1, -1, -1, 0, 1, 5, 11),
      pauseAfter: fc.constantFrom(-1, -1, 0, 3),
      pauseSteps: fc.constantFrom(1, 2, 9),
    })
    .map(({ shared, own, params: chosen, seed, priority, offline, cacheSalt, group, ...times }) => ({
      spec: {
        id: 0,
        promptIds: Int32Array.from([...Array.from({ length: shared }, (_, i) => i % 37), ...own]),
        generatedIds: new Int32Array(0),
        params: chosen,
        seed,
        priority,
        offline,
        cacheSalt,
        deadlineMs: Number.POSITIVE_INFINITY,
        group,
      },
      ...times,
    }));
}

/** Brings the clients' actions at their steps and runs until everything has ended. */
async function serve(engine: TestEngine, all: readonly Client[]): Promise<ReadonlyMap<number, Outcome>> {
  const outcomes = new Map<number, Outcome>();
  await engine.drive((step) => {
    all.forEach((client, id) => {
      const age = step - client.arrivalStep;
      if (age === 0) outcomes.set(id, engine.add({ ...client.spec, id }));
      if (client.pauseAfter >= 0 && age === client.pauseAfter) engine.scheduler.pause(id);
      if (client.pauseAfter >= 0 && age === client.pauseAfter + client.pauseSteps) engine.scheduler.resume(id);
      if (age === client.abortAfter) engine.abort(id);
    });
    if (step > 5000) throw new Error('sequences starve');
    // The last arrival is at step 20 and the last pause is over 12 steps later.
    return step < 40;
  });
  return outcomes;
}

async function expectAsAlone(client: Client, outcome: Outcome, groups: readonly CacheGroup[]): Promise<void> {
  const alone = await runAlone(client.spec, groups);
  if (outcome.finish === 'abort') {
    expect(outcome.tokens).toEqual(alone.tokens.slice(0, outcome.tokens.length));
    expect(outcome.promptLogprobs).toEqual(alone.promptLogprobs.slice(0, outcome.promptLogprobs.length));
    return;
  }
  const { tokens, logprobs, promptLogprobs, finish, stopTokenId } = outcome;
  expect({ tokens, logprobs, promptLogprobs, finish, stopTokenId }).toEqual({
    tokens: alone.tokens,
    logprobs: alone.logprobs,
    promptLogprobs: alone.promptLogprobs,
    finish: alone.finish,
    stopTokenId: alone.stopTokenId,
  });
}

test.each(Object.entries(setups))('any mix of clients gets what each gets alone: %s', async (_, groups) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(clients(30, 20), { minLength: 1, maxLength: 14 }),
      fc.record({
        numPages: fc.constantFrom(24, 40, 200),
        isAsync: fc.boolean(),
        usesPrefixCache: fc.boolean(),
        numRangeSlots: fc.constantFrom(0, 3, 16),
        maxMappings: fc.constantFrom(20, 10_000),
        policy: fc.constantFrom('fcfs' as const, 'priority' as const),
        maxNumSeqs: fc.constantFrom(1, 3, 8),
        maxNumBatchedTokens: fc.constantFrom(8, 13, 64),
        maxNumPartialPrefills: fc.constantFrom(1, 3),
      }),
      async (all, { maxNumSeqs, maxNumBatchedTokens, maxNumPartialPrefills, ...options }) => {
        const limits = { maxNumSeqs, maxNumBatchedTokens, maxNumPartialPrefills, maxNumOutputs: maxNumSeqs + 2 };
        const engine = new TestEngine({ groups, ...options, limits: { ...limits, maxModelLen: 90 } });
        const outcomes = await serve(engine, all);
        engine.checkIdle();
        for (const [id, client] of all.entries()) await expectAsAlone(client, outcomes.get(id)!, groups);
      },
    ),
    { numRuns: isFull ? 1500 : 60 },
  );
});

/** A seeded generator (mulberry32) of integers below a bound. */
function below(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (state + 0x6d2b79f5) | 0;
    let hash = Math.imul(state ^ (state >>> 15), 1 | state);
    hash = (hash + Math.imul(hash ^ (hash >>> 7), 61 | hash)) ^ hash;
    return Math.floor((((hash ^ (hash >>> 14)) >>> 0) / 2 ** 32) * bound);
  };
}

test('many long requests at once, on scarce pages, warm and cold, scheduled ahead or not', async () => {
  const groups = [paged, cacheGroup({ type: 'window', numTokens: 50 })];
  const [numRequests, maxPrompt, numPages] = isFull ? [200, 900, 260] : [60, 300, 100];
  const pick = below(42);
  const requests = Array.from({ length: numRequests }, (_, id): Client => {
    const numShared = pick(2) * pick(maxPrompt);
    const prompt = Array.from({ length: 1 + pick(maxPrompt) }, (__, i) => (i < numShared ? i % 37 : pick(37)));
    const chosen = { temperature: pick(2), maxTokens: 1 + pick(30), repetitionPenalty: 1 + pick(4) / 8 };
    const spec = makeSpec(prompt, { id, seed: BigInt(id), params: { ...defaultParams, ...chosen, ignoreEos: false } });
    return { spec, arrivalStep: pick(40), abortAfter: -1, pauseAfter: -1, pauseSteps: 0 };
  });
  const alone = new Map<number, Outcome>();
  for (const { spec } of requests) alone.set(spec.id, await runAlone(spec, groups));
  let numPreemptions = 0;
  let numHits = 0;
  for (const [isAsync, maxNumBatchedTokens, numRangeSlots] of [
    [false, 64, 0],
    [true, 64, 8],
    [true, 333, 3],
  ] as const) {
    const limits = {
      maxModelLen: 1024,
      maxNumSeqs: 12,
      maxNumBatchedTokens,
      maxNumOutputs: 20,
      longPrefillThreshold: 40,
    };
    const engine = new TestEngine({ groups, numPages, isAsync, numRangeSlots, limits });
    // The second time, the prefix cache is warm.
    for (const offset of [0, 10_000]) {
      const again = requests.map((client) => ({ ...client, spec: { ...client.spec, id: client.spec.id + offset } }));
      const outcomes = new Map<number, Outcome>();
      await engine.drive((step) => {
        for (const { spec, arrivalStep } of again)
          if (step === arrivalStep) outcomes.set(spec.id - offset, engine.add(spec));
        return step < 41;
      });
      engine.checkIdle();
      for (const [id, { tokens, finish }] of outcomes) {
        expect({ id, tokens, finish }).toEqual({ id, tokens: alone.get(id)!.tokens, finish: alone.get(id)!.finish });
      }
    }
    numPreemptions += engine.scheduler.stats().numPreemptions;
    numHits += engine.scheduler.stats().numPrefixHits;
  }
  expect(numPreemptions).toBeGreaterThan(5);
  expect(numHits).toBeGreaterThan(1000);
});
