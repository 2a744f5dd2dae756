// Routing policies: whatever the cluster looks like, each keeps its promise.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { cacheAware } from './cache-aware.ts';
import { leastLoad } from './least-load.ts';
import { policyNames, policies } from './policies.ts';
import type { Candidate } from './policy.ts';
import { candidatesOf } from './predict.ts';
import { roundRobin } from './round-robin.ts';
import { Router } from './router.ts';
import { sloAware } from './slo-aware.ts';
import { clusterOf, instanceView, routingRequest, routingRequests, testInstances } from './testing/clusters.ts';
import { TtftCorrection } from './ttft-correction.ts';

const none: ReadonlySet<string> = new Set();
const one = () => 1;
const numRuns = process.env['XLLM_TEST_FULL'] ? 5_000 : 300;

test('only instances that can take the request are chosen, and the same question gets the same answer', () => {
  fc.assert(
    fc.property(testInstances, routingRequests, fc.constantFrom(...policyNames), (instances, request, policy) => {
      const view = clusterOf(instances);
      const router = new Router(policy);
      const decision = router.route(request, view, none);
      const able = instances.filter(({ view: { isSchedulable, model } }) => isSchedulable && model === 'm');
      const fits = request.numPromptTokens + request.maxTokens <= 16_384;
      if (able.length === 0 || !fits) {
        expect(decision).toBeNull();
        return;
      }
      expect(able.map(({ view: { name } }) => name)).toContain(decision?.instance);
      expect(new Router(policy).route(request, view, none)).toEqual(decision);
      const without = router.route(request, view, new Set([decision!.instance]));
      expect(without?.instance).not.toBe(decision?.instance);
      expect(without === null).toBe(able.length === 1);
    }),
    { numRuns },
  );
});

/** Runs `check` on what a policy would see. */
function onCandidates(
  check: (candidates: readonly Candidate[], request: ReturnType<typeof routingRequest>) => void,
): void {
  fc.assert(
    fc.property(testInstances, routingRequests, (instances, request) => {
      const candidates = candidatesOf(request, clusterOf(instances), none, one, () => true);
      if (candidates.length > 0) check(candidates, request);
    }),
    { numRuns },
  );
}
const view = clusterOf([]);

test('round-robin: as many requests as instances reach each once', () => {
  onCandidates((candidates, request) => {
    const names = candidates.map((_, turn) => {
      return roundRobin({ ...request, ordinal: request.ordinal + turn }, candidates, view).candidate.instance.name;
    });
    expect(new Set(names).size).toBe(candidates.length);
  });
});

test('least-load: nobody has fewer sequences', () => {
  onCandidates((candidates, request) => {
    const sequences = ({ instance: { load, unreported } }: Candidate) =>
      load.numRunning + load.numWaiting + unreported.numRequests;
    const { candidate } = leastLoad(request, candidates, view);
    expect(sequences(candidate)).toBe(Math.min(...candidates.map(sequences)));
  });
});

describe('cache-aware', () => {
  test('never a hot spot while an idle instance could answer clearly sooner', () => {
    onCandidates((candidates, request) => {
      const { candidate } = cacheAware(request, candidates, view);
      const isIdle = ({ instance: { load } }: Candidate) => load.numRunning + load.numWaiting === 0;
      const sooner = candidates.filter((other) => other.ttftMs < candidate.ttftMs);
      expect(sooner.some((other) => isIdle(other) && other.ttftMs < 0.8 * candidate.ttftMs)).toBe(false);
      // Who waits longer than it must spares at least as much work.
      for (const other of sooner) {
        expect(other.computeMs - candidate.computeMs).toBeGreaterThanOrEqual(candidate.ttftMs - other.ttftMs - 1e-6);
      }
    });
  });

  test('among idle instances the longest match wins', () => {
    const idle = [0, 30, 60].map((heldBlocks, i) => ({ view: instanceView(`engine-${i}`), heldBlocks }));
    expect(new Router('cache-aware').route(routingRequest(), clusterOf(idle), none)?.instance).toBe('engine-2');
  });

  test('a long queue outweighs a match, a short one does not', () => {
    const busy = (numQueuedTokens: number) =>
      clusterOf([
        { view: instanceView('idle'), heldBlocks: 0 },
        {
          view: instanceView('warm', {
            load: { numRunning: 4, numWaiting: 2, numQueuedTokens, numContextTokens: 4_000, numKvBlocksUsed: 300 },
          }),
          heldBlocks: 30,
        },
      ]);
    const route = (numQueuedTokens: number) =>
      new Router('cache-aware').route(routingRequest(), busy(numQueuedTokens), none)?.instance;
    expect([route(100), route(5_000)]).toEqual(['warm', 'idle']);
  });

  test('equal instances take turns', () => {
    const cluster = clusterOf([0, 1, 2].map((i) => ({ view: instanceView(`engine-${i}`), heldBlocks: 0 })));
    const router = new Router('cache-aware');
    const chosen = [0, 1, 2].map((ordinal) => router.route(routingRequest({ ordinal }), cluster, none)?.instance);
    expect(new Set(chosen).size).toBe(3);
  });
});

test('slo-aware: an instance that meets both objectives is chosen where there is one with memory', () => {
  onCandidates((candidates, request) => {
    // With the margin that predictions need.
    const meets = ({ ttftMs, stepMs, hasMemory }: Candidate) =>
      hasMemory && ttftMs <= 0.8 * request.ttftSloMs && stepMs <= 0.8 * request.tpotSloMs;
    const { candidate } = sloAware(request, candidates, view);
    expect(meets(candidate)).toBe(candidates.some(meets));
    if (candidates.some(({ hasMemory }) => hasMemory)) expect(candidate.hasMemory).toBe(true);
  });
});

test('slo-aware: late everywhere, requests share one instance and leave the others to those that can be in time', () => {
  const load = (numQueuedTokens: number) => ({
    load: { numRunning: 2, numWaiting: 4, numQueuedTokens, numContextTokens: 2_000, numKvBlocksUsed: 100 },
  });
  const queues = [4_000, 6_000, 5_000, 60_000];
  const busy = clusterOf(
    queues.map((tokens, i) => ({ view: instanceView(`engine-${i}`, load(tokens)), heldBlocks: 0 })),
  );
  const route = (numPromptTokens: number) =>
    new Router('slo-aware').route(routingRequest({ numPromptTokens }), busy, none)?.instance;
  // The longest queue of those that are not hopeless; a prompt too long for any objective disturbs nobody.
  expect([route(500), route(4_000)]).toEqual(['engine-1', 'engine-0']);
});

test('more to do before a request never makes its prediction shorter', () => {
  fc.assert(
    fc.property(testInstances, routingRequests, fc.integer({ min: 1, max: 5_000 }), (instances, request, more) => {
      const loaded = instances.map(({ view: instance, heldBlocks }) => ({
        heldBlocks,
        view: { ...instance, load: { ...instance.load, numQueuedTokens: instance.load.numQueuedTokens + more } },
      }));
      const before = candidatesOf(request, clusterOf(instances), none, one, () => true);
      const after = candidatesOf(request, clusterOf(loaded), none, one, () => true);
      before.forEach(({ ttftMs }, i) => expect(after[i]!.ttftMs).toBeGreaterThanOrEqual(ttftMs));
    }),
    { numRuns },
  );
});

describe('sessions', () => {
  const names = ['a', 'b', 'c', 'd'];
  const idle = (among: readonly string[]) =>
    clusterOf(among.map((name) => ({ view: instanceView(name), heldBlocks: 0 })));
  const route = (sessionKey: string, among: readonly string[], policy = policyNames[0]) =>
    new Router(policy).route(routingRequest({ sessionKey, ordinal: sessionKey.length }), idle(among), none)?.instance;

  test('stay, are spread, and only those of a lost instance move', () => {
    const keys = Array.from({ length: 200 }, (_, i) => `session ${i}`);
    const homes = keys.map((key) => route(key, names));
    for (const name of names) expect(homes.filter((home) => home === name).length).toBeGreaterThan(25);
    keys.forEach((key, i) => {
      for (const policy of policyNames) expect(route(key, names, policy)).toBe(homes[i]);
      const moved = route(key, names.slice(1));
      if (homes[i] !== 'a') expect(moved).toBe(homes[i]);
    });
  });

  test('give way where their instance would answer much later', () => {
    const home = route('anna', names)!;
    const load = { numRunning: 16, numWaiting: 30, numQueuedTokens: 30_000, numContextTokens: 0, numKvBlocksUsed: 0 };
    const busy = clusterOf(
      names.map((name) => ({ view: instanceView(name, name === home ? { load } : {}), heldBlocks: 0 })),
    );
    const decision = new Router('least-load').route(routingRequest({ sessionKey: 'anna' }), busy, none);
    expect(decision?.instance).not.toBe(home);
  });
});

test('the correction follows an instance that is slower than predicted, and its error falls', () => {
  const correction = new TtftCorrection();
  const observe = (count: number) => {
    for (let i = 0; i < count; i++) correction.observe('a', 100 * correction.factorOf('a'), 250);
  };
  observe(1);
  const before = correction.errorOf('a')!;
  observe(100);
  expect(before).toBeGreaterThan(0.5);
  expect(correction.factorOf('a')).toBeCloseTo(2.5, 1);
  expect(correction.errorOf('a')).toBeLessThan(0.05);
  expect([correction.factorOf('b'), correction.errorOf('b')]).toEqual([1, null]);
});

test('every policy is in the table under its own name', () => {
  expect(Object.keys(policies)).toEqual([...policyNames]);
});
