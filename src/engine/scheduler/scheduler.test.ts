// What the scheduler promises, one promise a test: order, budgets, sharing, giving way, ends.
import { describe, expect, test } from 'vitest';
import { type SequenceEvent, type SequenceState, transition } from './sequence.ts';
import { cacheGroup, defaultParams, makeSpec, paged, runAlone, TestEngine } from './testing/harness.ts';
import type { StepPlan } from './plan.ts';

const params = (more: Partial<typeof defaultParams>): typeof defaultParams => ({ ...defaultParams, ...more });

/** Tokens per sequence and step: `{ 3: 1, 4: 8 }`. */
function rowsOf(plan: StepPlan): Record<number, number> {
  return Object.fromEntries(plan.sequenceIds.map((id, row) => [id, plan.rowStart[row + 1]! - plan.rowStart[row]!]));
}

describe('batching', () => {
  test('decodes come first, then running chunks, then new prompts, within the budget', async () => {
    const engine = new TestEngine({ limits: { maxNumBatchedTokens: 10, longPrefillThreshold: 99 } });
    const [a, b, c] = [makeSpec(4), makeSpec(12), makeSpec(30)];
    engine.add(a);
    engine.add(b);
    engine.add(c);
    await engine.drive();
    expect(engine.plans.slice(0, 6).map(rowsOf)).toEqual([
      { [a.id]: 4, [b.id]: 6 },
      { [a.id]: 1, [b.id]: 6, [c.id]: 3 },
      { [a.id]: 1, [b.id]: 1, [c.id]: 8 },
      { [a.id]: 1, [b.id]: 1, [c.id]: 8 },
      { [a.id]: 1, [b.id]: 1, [c.id]: 8 },
      { [a.id]: 1, [b.id]: 1, [c.id]: 3 },
    ]);
    engine.checkIdle();
  });

  test('a long prompt leaves room for short ones, and takes what they leave', async () => {
    const limits = { maxNumBatchedTokens: 24, longPrefillThreshold: 16, maxModelLen: 256 };
    const engine = new TestEngine({ numPages: 200, limits });
    const long = makeSpec(100);
    const short = makeSpec(5);
    engine.add(long);
    engine.add(short);
    await engine.drive();
    expect(engine.plans.slice(0, 3).map(rowsOf)).toEqual([
      { [long.id]: 19, [short.id]: 5 },
      { [long.id]: 23, [short.id]: 1 },
      { [long.id]: 23, [short.id]: 1 },
    ]);
  });

  test('only so many long prompts are computed at one time; short ones pass them', async () => {
    const limits = { maxNumBatchedTokens: 40, longPrefillThreshold: 16, maxLongPartialPrefills: 1, maxModelLen: 256 };
    const engine = new TestEngine({ numPages: 200, limits });
    const [first, second, short] = [makeSpec(100), makeSpec(100), makeSpec(6)];
    for (const spec of [first, second, short]) engine.add(spec);
    await engine.drive();
    expect(Object.keys(rowsOf(engine.plans[0]!)).map(Number)).toEqual([first.id, short.id]);
    const firstEnds = engine.plans.findIndex((plan) => rowsOf(plan)[first.id] === 1);
    const secondStarts = engine.plans.findIndex((plan) => second.id in rowsOf(plan));
    expect(secondStarts).toBeGreaterThanOrEqual(firstEnds - 1);
    engine.checkIdle();
  });

  test('a fully cached prompt still computes its last token', async () => {
    const engine = new TestEngine();
    const prompt = Array.from({ length: 16 }, (_, i) => i);
    const first = engine.add(makeSpec(prompt));
    await engine.drive();
    const spec = makeSpec(prompt);
    const second = engine.add(spec);
    const numSteps = engine.plans.length;
    await engine.drive();
    expect(rowsOf(engine.plans[numSteps]!)).toEqual({ [spec.id]: 4 });
    expect(second.last!.timing.numCachedTokens).toBe(12);
    expect(second.tokens).toEqual(first.tokens);
  });
});

describe('sharing', () => {
  const shared = Array.from({ length: 100 }, (_, i) => 7 + i);
  const numComputed = async (
    numOthers: number,
    more: Parameters<typeof makeSpec>[1],
    isAsync: boolean,
  ): Promise<number> => {
    const engine = new TestEngine({
      numPages: 400,
      isAsync,
      limits: {
        maxModelLen: 200,
        maxNumSeqs: 40,
        maxNumBatchedTokens: 64,
        maxNumOutputs: 80,
        longPrefillThreshold: 99,
      },
    });
    for (let i = 0; i < numOthers; i++) engine.add(makeSpec([...shared, 500 + i], more));
    await engine.drive();
    engine.checkIdle();
    return engine.scheduler.stats().numPromptTokensComputed;
  };

  test.each([false, true])('concurrent prompts compute a shared beginning once (ahead: %s)', async (isAsync) => {
    expect(await numComputed(1, {}, isAsync)).toBe(101);
    expect(await numComputed(32, {}, isAsync)).toBe(101 + 31);
  });

  test('choices of one request wait for the first of them, short as the prompt may be', async () => {
    const engine = new TestEngine();
    const prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    const specs = [0, 1, 2].map((choice) =>
      makeSpec(prompt, { group: 5, seed: BigInt(choice), params: params({ temperature: 1 }) }),
    );
    const outcomes = specs.map((spec) => engine.add(spec));
    await engine.drive();
    expect(rowsOf(engine.plans[0]!)).toEqual({ [specs[0]!.id]: 10 });
    expect(rowsOf(engine.plans[1]!)).toEqual({ [specs[0]!.id]: 1, [specs[1]!.id]: 2, [specs[2]!.id]: 2 });
    expect(new Set(outcomes.map(({ tokens }) => tokens.join())).size).toBe(3);
  });

  test('siblings of an aborted first go on by themselves', async () => {
    const engine = new TestEngine();
    const [leader, sibling] = [makeSpec([1, 2, 3], { group: 6 }), makeSpec([1, 2, 3], { group: 6 })];
    engine.add(leader);
    const outcome = engine.add(sibling);
    engine.scheduler.pause(leader.id);
    await engine.drive(() => false);
    engine.abort(leader.id);
    await engine.drive();
    expect(outcome.finish).toBe('length');
    engine.checkIdle();
  });

  test('tenants share only with themselves', async () => {
    const engine = new TestEngine();
    const cached = async (cacheSalt: string): Promise<number> => {
      const outcome = engine.add(makeSpec(shared.slice(0, 20), { cacheSalt }));
      await engine.drive();
      return outcome.last!.timing.numCachedTokens;
    };
    expect([await cached('a'), await cached('b'), await cached('a'), await cached('')]).toEqual([0, 0, 16, 0]);
  });

  test('prompt log-probabilities bypass the cache and come once, in chunks that fit the outputs', async () => {
    const engine = new TestEngine({ limits: { maxNumOutputs: 11, maxNumSeqs: 4 } });
    engine.add(makeSpec(shared.slice(0, 40)));
    await engine.drive();
    const spec = makeSpec(shared.slice(0, 40), { params: params({ numPromptLogprobs: 1, maxTokens: 0 }) });
    const outcome = engine.add(spec);
    await engine.drive();
    expect(outcome.promptLogprobs).toHaveLength(39);
    expect(outcome.last!.timing.numCachedTokens).toBe(0);
    expect([outcome.tokens, outcome.finish]).toEqual([[], 'length']);
    expect(outcome.promptLogprobs).toEqual((await runAlone(spec, [paged])).promptLogprobs);
  });
});

describe('order', () => {
  test('priority: smaller first, then arrival', async () => {
    const engine = new TestEngine({ policy: 'priority', limits: { maxNumSeqs: 1, maxNumOutputs: 3 } });
    const specs = [3, -1, 0, -1].map((priority) => makeSpec(3, { priority, params: params({ maxTokens: 1 }) }));
    for (const spec of specs) engine.add(spec);
    await engine.drive();
    const order = [1, 3, 2, 0].map((i) => specs[i]!.id);
    expect(engine.plans.flatMap(({ sequenceIds }) => sequenceIds)).toEqual(order);
  });

  test.each([false, true])('online takes the seats of offline, which finishes later (ahead: %s)', async (isAsync) => {
    const engine = new TestEngine({ isAsync, limits: { maxNumSeqs: 2, maxNumOutputs: 4 } });
    const offline = [makeSpec(6, { offline: true }), makeSpec(6, { offline: true })];
    const outcomes = offline.map((spec) => engine.add(spec));
    const online = [makeSpec(5), makeSpec(5)];
    let firstOnline = -1;
    await engine.drive((step) => {
      if (step === 4) for (const spec of online) outcomes.push(engine.add(spec));
      if (firstOnline < 0 && engine.plans.at(-1)?.sequenceIds.includes(online[1]!.id)) firstOnline = step;
      return false;
    });
    expect(firstOnline).toBeLessThanOrEqual(7);
    const lastOnline = engine.plans.findLastIndex((plan) => online[0]!.id in rowsOf(plan));
    const lastOffline = engine.plans.findLastIndex((plan) => offline[0]!.id in rowsOf(plan));
    expect(lastOffline).toBeGreaterThan(lastOnline);
    expect(engine.scheduler.stats().numPreemptions).toBe(2);
    for (const { tokens } of outcomes) expect(tokens).toHaveLength(16);
    engine.checkIdle();
  });

  test('nobody starves: a long prompt among endless short ones, on scarce pages', async () => {
    const limits = { maxNumSeqs: 4, maxNumBatchedTokens: 12, maxNumOutputs: 8, maxModelLen: 120 };
    const engine = new TestEngine({ numPages: 32, limits });
    const long = engine.add(makeSpec(90, { params: params({ maxTokens: 20 }) }));
    let numShort = 0;
    await engine.drive((step) => {
      if (long.finish) return false;
      expect(step).toBeLessThan(400);
      if (step % 2 === 0) engine.add(makeSpec(8, { params: params({ maxTokens: 6 }) }));
      numShort++;
      return true;
    });
    expect(numShort).toBeGreaterThan(20);
    engine.checkIdle();
  });
});

describe('giving way', () => {
  test.each([false, true])('pages short: the last is preempted and computed again (ahead: %s)', async (isAsync) => {
    // Two sequences of 40 tokens want 20 pages; there are 14.
    const engine = new TestEngine({ numPages: 14, isAsync, usesPrefixCache: false, limits: { maxModelLen: 56 } });
    const specs = [0, 1].map((seed) =>
      makeSpec(16, { seed: BigInt(seed), params: params({ maxTokens: 24, temperature: 1 }) }),
    );
    const outcomes = specs.map((spec) => engine.add(spec));
    await engine.drive();
    expect(engine.scheduler.stats().numPreemptions).toBe(1);
    expect(outcomes.map(({ last }) => last!.timing.numPreemptions)).toEqual([0, 1]);
    for (const [i, spec] of specs.entries())
      expect(outcomes[i]!.tokens).toEqual((await runAlone(spec, [paged])).tokens);
    engine.checkIdle();
  });

  test('nobody is admitted to the pages that running sequences are about to need', async () => {
    const engine = new TestEngine({ numPages: 12, usesPrefixCache: false, limits: { maxModelLen: 48 } });
    engine.add(makeSpec(16, { params: params({ maxTokens: 24 }) }));
    engine.add(makeSpec(30, { params: params({ maxTokens: 2 }) }));
    await engine.drive();
    expect(engine.scheduler.stats().numPreemptions).toBe(0);
    engine.checkIdle();
  });

  test('a paused sequence keeps its pages, until somebody needs them, but not its seat', async () => {
    const limits = { maxModelLen: 56, maxNumSeqs: 1, maxNumOutputs: 3 };
    const engine = new TestEngine({ numPages: 14, usesPrefixCache: false, limits });
    const spec = makeSpec(16, { params: params({ maxTokens: 24 }) });
    const outcome = engine.add(spec);
    let heard = -1;
    await engine.drive((step) => {
      if (step === 3) {
        engine.scheduler.pause(spec.id);
        heard = outcome.tokens.length;
      }
      if (step === 9) {
        expect(outcome.tokens).toHaveLength(heard);
        expect(engine.kv.stats().numSequences).toBe(1);
        expect(engine.scheduler.hasWork()).toBe(false);
        engine.add(makeSpec(4, { params: params({ maxTokens: 2 }) }));
      }
      if (step === 15) {
        expect(engine.scheduler.stats()).toMatchObject({ numPreemptions: 0, numRunning: 1 });
        engine.add(makeSpec(50, { params: params({ maxTokens: 2 }) }));
      }
      if (step === 30) {
        expect(engine.scheduler.stats()).toMatchObject({
          numPreemptions: 1,
          numWaiting: 1,
          numRunning: 0,
          numPaused: 1,
        });
        engine.scheduler.resume(spec.id);
      }
      return step < 30;
    });
    expect(outcome.tokens).toEqual((await runAlone(spec, [paged])).tokens);
    engine.checkIdle();
  });

  test('memory that turns out to be missing ends a sequence that no longer fits, and only that', async () => {
    const engine = new TestEngine({ numPages: 40, limits: { maxModelLen: 128 } });
    const large = engine.add(makeSpec(100));
    const small = engine.add(makeSpec(8));
    engine.kv.limitPages(0, 10);
    await engine.drive();
    expect([large.finish, large.last!.error!.refused]).toEqual(['error', 'out_of_memory']);
    expect(small.finish).toBe('length');
    expect(engine.add(makeSpec(100)).refused).toBe('context_length_exceeded');
    engine.checkIdle();
  });
});

describe('scheduling ahead', () => {
  test('a stop found late: nothing of the extra row is heard, its pages come back at its commit', async () => {
    const alone = await runAlone(makeSpec([5, 6, 7], { params: params({ maxTokens: 40 }) }), [paged]);
    const stop = alone.tokens[4]!;
    const wanted = alone.tokens.slice(0, alone.tokens.indexOf(stop) + 1);
    const engine = new TestEngine({ isAsync: true });
    const spec = makeSpec([5, 6, 7], { params: params({ maxTokens: 40, stopTokenIds: [stop] }) });
    const outcome = engine.add(spec);
    let numHeld = 0;
    await engine.drive(() => {
      if (outcome.finish) numHeld += engine.kv.stats().numSequences;
      return false;
    });
    expect(outcome.tokens).toEqual(wanted);
    expect([outcome.finish, outcome.stopTokenId]).toEqual(['stop', stop]);
    // One more step had been planned, and held the pages for as long as it ran.
    expect(numHeld).toBe(1);
    expect(engine.plans).toHaveLength(wanted.length + 1);
    expect(engine.scheduler.stats().numGenerationTokens).toBe(wanted.length);
    engine.checkIdle();
  });

  test('a length that is known beforehand costs no extra step', async () => {
    const engine = new TestEngine({ isAsync: true });
    engine.add(makeSpec(3, { params: params({ maxTokens: 5 }) }));
    await engine.drive();
    expect(engine.plans).toHaveLength(5);
  });

  test('who needs the last token joins every other step and delays nobody', async () => {
    const engine = new TestEngine({ isAsync: true });
    const plain = makeSpec(3, { params: params({ maxTokens: 12 }) });
    const penalised = makeSpec(3, { params: params({ maxTokens: 6, repetitionPenalty: 1.5 }) });
    const outcome = engine.add(penalised);
    engine.add(plain);
    await engine.drive();
    const steps = (id: number): number[] => engine.plans.flatMap((plan, i) => (id in rowsOf(plan) ? [i] : []));
    expect(steps(plain.id)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(steps(penalised.id)).toEqual([0, 2, 4, 6, 8, 10]);
    expect(outcome.tokens).toEqual((await runAlone(penalised, [paged])).tokens);
  });
});

describe('admission', () => {
  test('what can never fit is refused at once', () => {
    const engine = new TestEngine({ numPages: 10, limits: { maxModelLen: 64 } });
    expect(engine.add(makeSpec(50)).refused).toBe('context_length_exceeded');
    expect(engine.add(makeSpec(30)).refused).toBe('context_length_exceeded');
    expect(engine.add(makeSpec(20)).refused).toBeNull();
    expect(engine.add(makeSpec(0)).refused).toBe('invalid_request');
  });

  test('a sliding window needs pages for its window only', () => {
    const groups = [cacheGroup({ type: 'window', numTokens: 8 })];
    const limits = { maxModelLen: 1000, maxNumBatchedTokens: 8 };
    expect(new TestEngine({ groups, numPages: 10, limits }).add(makeSpec(900)).refused).toBeNull();
  });

  test('a full queue is refused with the time to come back', () => {
    const engine = new TestEngine({ limits: { maxQueueLen: 2 } });
    engine.add(makeSpec(3));
    engine.add(makeSpec(3));
    expect(engine.scheduler.add(makeSpec(3), 0)).toMatchObject({ refused: 'overloaded', retryAfterS: 1 });
  });

  test('a wait that would be too long, or outlast the deadline, is refused', async () => {
    const engine = new TestEngine({ limits: { maxNumSeqs: 1, maxNumOutputs: 3, maxQueueMs: 20_000 } });
    // One sequence of 16 steps a second each: the backlog moves by one in about 16 s.
    for (let i = 0; i < 3; i++) engine.add(makeSpec(3));
    await engine.drive((step) => {
      engine.nowMs += 1000;
      if (step === 30) {
        for (let i = 0; i < 2; i++) engine.add(makeSpec(3));
        const refusal = engine.scheduler.add(makeSpec(3), engine.nowMs);
        expect(refusal).toMatchObject({ refused: 'overloaded' });
        expect(refusal!.retryAfterS).toBeGreaterThan(3);
        const hasty = makeSpec(3, { deadlineMs: engine.nowMs + 5000 });
        expect(engine.scheduler.add(hasty, engine.nowMs)?.refused).toBe('overloaded');
      }
      return false;
    });
    engine.checkIdle();
  });
});

describe('ends', () => {
  test('a stop token before minTokens is a token like any other', async () => {
    const alone = await runAlone(makeSpec([5, 6, 7]), [paged]);
    const stop = alone.tokens[0]!;
    const again = alone.tokens.indexOf(stop, 3);
    const edits = { needsTokens: () => false, editsFor: () => null };
    const engine = new TestEngine({ edits });
    const outcome = engine.add(makeSpec([5, 6, 7], { params: params({ minTokens: 3, stopTokenIds: [stop] }) }));
    await engine.drive();
    expect(outcome.tokens).toEqual(alone.tokens.slice(0, again < 0 ? 16 : again + 1));
  });

  test('a deadline passes while waiting, while running, and while nothing runs', async () => {
    const engine = new TestEngine({ limits: { maxNumSeqs: 1, maxNumOutputs: 3 } });
    const running = engine.add(makeSpec(3, { deadlineMs: 8 }));
    const waiting = engine.add(makeSpec(3, { deadlineMs: 8 }));
    await engine.drive(() => {
      engine.hear(engine.scheduler.expire(engine.nowMs));
      return false;
    });
    expect(running.tokens.length).toBeGreaterThan(0);
    for (const { finish, last } of [running, waiting]) {
      expect([finish, last!.error!.refused]).toEqual(['error', 'deadline_exceeded']);
    }
    engine.checkIdle();
  });

  test('an abort with tokens to keep is a stop, and what came later does not count', async () => {
    const engine = new TestEngine({ isAsync: true });
    const spec = makeSpec(3);
    const outcome = engine.add(spec);
    await engine.drive((step) => {
      if (outcome.tokens.length === 5 && !outcome.finish) engine.abort(spec.id, 3);
      return step < 20;
    });
    expect(outcome.finish).toBe('stop');
    expect(engine.scheduler.stats().numGenerationTokens).toBe(3);
    expect(engine.scheduler.abort(spec.id)).toBeNull();
    engine.checkIdle();
  });

  test('times: queued until admitted, prefilling until the first token', async () => {
    const engine = new TestEngine({ limits: { maxNumSeqs: 1, maxNumOutputs: 3 } });
    engine.add(makeSpec(3));
    const second = engine.add(makeSpec(40, { params: params({ maxTokens: 1 }) }));
    await engine.drive();
    // 16 steps of the first, and the second's plan: 33 ms; its two chunks: 3 ms.
    expect(second.last!.timing).toEqual({ numCachedTokens: 0, queueMs: 33, prefillMs: 3, numPreemptions: 0 });
  });
});

test('states change in these ways only', () => {
  const states: SequenceState[] = ['waiting', 'running', 'preempting', 'finishing', 'finished'];
  const events: SequenceEvent[] = ['admit', 'preempt', 'finish', 'drained'];
  const table = states.flatMap((state) =>
    events.flatMap((event) =>
      [false, true].flatMap((isInFlight) => {
        const next = transition(state, event, isInFlight);
        return next ? [`${state} ${event}${isInFlight ? ' in flight' : ''} → ${next}`] : [];
      }),
    ),
  );
  expect(table).toMatchInlineSnapshot(`
    [
      "waiting admit → running",
      "waiting admit in flight → running",
      "waiting finish → finished",
      "waiting finish in flight → finishing",
      "running preempt → waiting",
      "running preempt in flight → preempting",
      "running finish → finished",
      "running finish in flight → finishing",
      "preempting finish → finished",
      "preempting finish in flight → finishing",
      "preempting drained → waiting",
      "preempting drained in flight → waiting",
      "finishing drained → finished",
      "finishing drained in flight → finished",
    ]
  `);
});
