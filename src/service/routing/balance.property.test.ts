// Balancing of decode load: what it promises, for whatever cluster.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { predictStepMs } from '../../common/step-time.ts';
import type { InstanceView } from '../registry/cluster-view.ts';
import { balanceMove, type RunningRequest } from './balance.ts';
import { clusterOf, instanceView } from './testing/clusters.ts';

const numRuns = process.env['XLLM_TEST_FULL'] ? 20_000 : 1_000;

interface Placed {
  readonly instance: number;
  readonly numSeqs: number;
  readonly numContextTokens: number;
  readonly maxTokensLeft: number;
  readonly settledMs: number;
}

const placed: fc.Arbitrary<Placed> = fc.record({
  instance: fc.nat(3),
  numSeqs: fc.constantFrom(1, 1, 1, 3),
  numContextTokens: fc.integer({ min: 1, max: 6_000 }),
  maxTokensLeft: fc.constantFrom(10, 200, 2_000),
  settledMs: fc.constantFrom(0, 60_000),
});

/** Instances whose load is exactly that of the requests. */
function clusterWith(all: readonly Placed[], kinds: readonly Partial<InstanceView>[]) {
  const requests = all.map(
    ({ instance, ...rest }, i): RunningRequest => ({ id: `r${i}`, instance: `engine-${instance}`, ...rest }),
  );
  const instances = kinds.map((kind, i) => {
    const own = all.filter(({ instance }) => instance === i);
    const sum = (of: (request: Placed) => number) => own.reduce((total, request) => total + of(request), 0);
    const load = {
      numRunning: sum(({ numSeqs }) => numSeqs),
      numWaiting: 0,
      numQueuedTokens: 0,
      numContextTokens: sum(({ numSeqs, numContextTokens }) => numSeqs * numContextTokens),
      numKvBlocksUsed: sum(({ numSeqs, numContextTokens }) => numSeqs * Math.ceil(numContextTokens / 16)),
      ...kind.load,
    };
    return { view: instanceView(`engine-${i}`, { ...kind, load }), heldBlocks: 0 };
  });
  return { view: clusterOf(instances), requests };
}

function stepMs({ load, stepTime }: InstanceView): number {
  const { numRunning, numContextTokens } = load;
  return predictStepMs(stepTime!, {
    numTokens: numRunning,
    numSeqs: numRunning,
    contextTokens: numContextTokens,
    attendedPairs: numContextTokens,
  });
}

const kinds = fc.array(
  fc.constantFrom<Partial<InstanceView>>(
    {},
    {},
    {},
    { isSchedulable: false },
    { numericsId: 'other' },
    { roles: ['prefill'] },
  ),
  { minLength: 4, maxLength: 4 },
);
const margins = fc.constantFrom(1.1, 1.5, 3);

test('a move is between equals, to where there is room, and makes the slower of the two faster', () => {
  fc.assert(
    fc.property(fc.array(placed, { maxLength: 24 }), kinds, margins, (all, instanceKinds, margin) => {
      const { view, requests } = clusterWith(all, instanceKinds);
      const move = balanceMove(view, requests, margin);
      expect(balanceMove(view, requests, margin)).toEqual(move);
      const byName = new Map(view.instances.map((instance) => [instance.name, instance]));
      if (!move) return;
      const { request, to } = move;
      const [source, target] = [byName.get(request.instance)!, byName.get(to)!];
      expect(source).not.toBe(target);
      expect([source.isSchedulable, target.isSchedulable, target.numericsId]).toEqual([true, true, source.numericsId]);
      expect(target.roles).not.toContain('prefill');
      expect(stepMs(source)).toBeGreaterThan(margin * stepMs(target));
      expect(request.maxTokensLeft).toBeGreaterThanOrEqual(64);
      expect(request.settledMs).toBeGreaterThanOrEqual(5_000);
      const after = clusterWith(
        all.map((one, i) => (requests[i] === request ? { ...one, instance: Number(to.slice(-1)) } : one)),
        instanceKinds,
      ).view.instances.filter(({ name }) => name === source.name || name === to);
      expect(Math.max(...after.map(stepMs))).toBeLessThan(stepMs(source));
      expect(target.load.numRunning + request.numSeqs).toBeLessThanOrEqual(16);
    }),
    { numRuns },
  );
});

test('balancing comes to rest, and no request goes back and forth', () => {
  fc.assert(
    fc.property(fc.array(placed, { maxLength: 16 }), margins, (all, margin) => {
      let now = all.map((one) => ({ ...one, settledMs: 60_000 }));
      const seen = new Set<string>();
      for (let i = 0; ; i++) {
        expect(i).toBeLessThan(100);
        const { view, requests } = clusterWith(now, [{}, {}, {}, {}]);
        const move = balanceMove(view, requests, margin);
        if (!move) return;
        const key = now.map(({ instance }) => instance).join();
        expect(seen.has(key)).toBe(false);
        seen.add(key);
        // Also without the time that a moved request must stay.
        now = now.map((one, k) =>
          requests[k] === move.request ? { ...one, instance: Number(move.to.slice(-1)) } : one,
        );
      }
    }),
    { numRuns },
  );
});

test('an instance that computes prompts, or is full, gets nothing', () => {
  const busy = Array.from(
    { length: 8 },
    (): Placed => ({ instance: 0, numSeqs: 1, numContextTokens: 3_000, maxTokensLeft: 500, settledMs: 60_000 }),
  );
  const load = { numRunning: 0, numWaiting: 0, numQueuedTokens: 0, numContextTokens: 0, numKvBlocksUsed: 0 };
  const moveTo = (more: Partial<typeof load>) => {
    const { view, requests } = clusterWith(busy, [{}, { load: { ...load, ...more } }]);
    return balanceMove(view, requests, 1.5)?.to ?? null;
  };
  expect(moveTo({})).toBe('engine-1');
  expect(moveTo({ numWaiting: 1 })).toBeNull();
  expect(moveTo({ numQueuedTokens: 400 })).toBeNull();
  expect(moveTo({ numKvBlocksUsed: 3_500 })).toBeNull();
});
