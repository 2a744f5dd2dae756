// The timed device: takes the modelled time on any clock, answers alike wherever it runs, and refuses wrong pages.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { predictStepMs, type StepTimeModel } from '../../common/step-time.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { shapeOfPlan } from '../scheduler/step-shape.ts';
import { cacheGroup, defaultParams, makeSpec, paged, TestEngine } from '../scheduler/testing/harness.ts';
import { TimedExecutor } from './timed-executor.ts';
import { extendPrefix, emptyPrefix } from './timed-pages.ts';
import { TimedStore } from './timed-store.ts';

const stepTime: StepTimeModel = { constantMs: 5, tokenMs: 0.5, seqMs: 0.1, contextMs: 1e-2, pairMs: 1e-3 };

/** A clock that sleeping moves on, and timers that fire late by `lateMs`. */
function simulatedTime(lateMs = 0) {
  const time = { nowMs: 1000, sleptMs: 0 };
  return {
    time,
    clock: { nowMs: () => time.nowMs },
    sleep: async (ms: number) => {
      time.nowMs += ms + lateMs;
      time.sleptMs += ms;
    },
  };
}

function timedEngine(options: ConstructorParameters<typeof TestEngine>[0] = {}, lateMs = 0) {
  const simulated = simulatedTime(lateMs);
  const engine = new TestEngine({
    ...options,
    executor: (memory) =>
      new TimedExecutor({
        ...memory,
        ...simulated,
        store: TimedStore.ofHeap(memory.numPages, memory.blockTokens),
        stops: { stopTokenIds: [0], meanTokens: 16 },
        stepTime,
      }),
  });
  return { engine, ...simulated };
}

test('steps take what the model says, also where every timer is late', async () => {
  for (const lateMs of [0, 3]) {
    const { engine, time } = timedEngine({}, lateMs);
    const startMs = time.nowMs;
    engine.add(makeSpec(50));
    engine.add(makeSpec(9));
    await engine.drive();
    const modelledMs = engine.plans.reduce((sum, plan) => sum + predictStepMs(stepTime, shapeOfPlan(plan)), 0);
    expect(engine.plans.length).toBeGreaterThan(15);
    // Lateness does not add up: only the last step's remains.
    expect(time.nowMs - startMs - modelledMs).toBeLessThanOrEqual(lateMs + 1);
    expect(time.nowMs - startMs).toBeGreaterThanOrEqual(modelledMs - 1);
  }
});

test('batched, chunked, preempted, cached: everybody gets what each gets alone', async () => {
  const clients = fc.array(
    fc.record({
      shared: fc.integer({ min: 0, max: 30 }),
      own: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 12 }),
      seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      temperature: fc.constantFrom(0, 0.7),
      maxTokens: fc.integer({ min: 1, max: 24 }),
    }),
    { minLength: 1, maxLength: 10 },
  );
  const groupings = [[paged], [paged, cacheGroup({ type: 'window', numTokens: 10 })]];
  await fc.assert(
    fc.asyncProperty(
      clients,
      fc.constantFrom(24, 200),
      fc.boolean(),
      fc.constantFrom(...groupings),
      async (all, numPages, isAsync, groups) => {
        const specs = all.map(({ shared, own, seed, ...params }) =>
          makeSpec([...Array.from({ length: shared }, (_, i) => i), ...own], {
            seed,
            params: { ...defaultParams, ...params, ignoreEos: false },
          }),
        );
        const { engine } = timedEngine({ numPages, isAsync, groups });
        const together = specs.map((spec) => engine.add(spec));
        await engine.drive();
        engine.checkIdle();
        for (const [i, spec] of specs.entries()) {
          const { engine: single } = timedEngine({ groups });
          const alone = single.add(spec);
          await single.drive();
          expect(together[i]!.tokens).toEqual(alone.tokens);
          expect(together[i]!.finish).toBe(alone.finish);
        }
      },
    ),
    { numRuns: process.env['XLLM_TEST_FULL'] ? 1_000 : 50 },
  );
});

describe('wrong pages fail loudly', () => {
  /** Runs two sequences whose second decode step finds its pages `changed`. */
  async function runWith(changed: (plan: StepPlan, pages: Int32Array) => void): Promise<void> {
    const { engine } = timedEngine();
    const { executor } = engine;
    const run = executor.run.bind(executor);
    executor.run = (plan) => {
      if (plan.stepId === 3) changed(plan, plan.groups[0]!.pages);
      return run(plan);
    };
    engine.add(makeSpec(11));
    engine.add(makeSpec(11));
    await engine.drive();
  }

  test('untouched tables pass', () => runWith(() => {}));

  test("another sequence's page", async () => {
    const swap = runWith(({ groups }, pages) => {
      const other = groups[0]!.pageStart[1]! + 1;
      [pages[1], pages[other]] = [pages[other]!, pages[1]!];
    });
    await expect(swap).rejects.toThrow('continues another prefix');
  });

  test("another sequence's whole table", async () => {
    const swap = runWith(({ groups }, pages) => {
      const middle = groups[0]!.pageStart[1]!;
      const first = pages.slice(0, middle);
      pages.set(pages.slice(middle, 2 * middle));
      pages.set(first, middle);
    });
    await expect(swap).rejects.toThrow('finds another prefix than it wrote');
  });

  test('a page that was never written, and one of another block', async () => {
    await expect(runWith((_, pages) => pages.fill(63, 1, 2))).rejects.toThrow('holds 0 tokens of block -1');
    await expect(runWith((_, pages) => pages.copyWithin(1, 0, 1))).rejects.toThrow('of block 0');
  });

  test('a page that was written again since', () => {
    const pages = TimedStore.ofHeap([4], 4).groups[0]!;
    const write = (page: number, tokens: readonly number[], start: number, from = emptyPrefix) =>
      tokens.reduce((digest, token, i) => {
        const next = extendPrefix(digest, token);
        pages.write(page, start + i, digest, next);
        return next;
      }, from);
    const first = write(0, [1, 2, 3, 4], 0);
    write(1, [5, 6], 4, first);
    expect(pages.read(Int32Array.of(0, 1), 5)).toEqual(extendPrefix(extendPrefix(first, 5), 6));
    write(0, [1, 2, 3, 9], 0);
    expect(() => pages.read(Int32Array.of(0, 1), 5)).toThrow('continues another prefix');
    expect(() => pages.read(Int32Array.of(0, 1), 6)).toThrow('holds 2 tokens');
  });
});
