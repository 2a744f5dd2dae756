// The states of an instance: each transition of the table, and what holds after any sequence of events.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Health, type HealthEvent, type HealthLimits, newHealth, nextHealth } from './instance-state.ts';

const numRuns = process.env.XLLM_TEST_FULL ? 10_000 : 1_000;
const limits: HealthLimits = { silentMs: 3_000, stalledMs: 60_000, suspectMs: 15_000 };
const beat: HealthEvent = { type: 'heartbeat', stalledMs: 0 };
const tick: HealthEvent = { type: 'tick' };
const registered: HealthEvent = { type: 'registered' };
const gone = (answered: boolean): HealthEvent => ({ type: 'unregistered', answered });

/** States after each [time, event]; "removed" ends it. */
function run(...steps: readonly (readonly [number, HealthEvent])[]): string[] {
  let health: Health | null = newHealth(0);
  return steps.map(([nowMs, event]) => {
    health = health && nextHealth(health, event, nowMs, limits);
    return health?.state ?? 'removed';
  });
}

describe('transitions', () => {
  test('a lost registration of one that answers: LEASE_LOST, and ACTIVE when it is back', () => {
    expect(run([100, gone(true)], [200, beat], [300, registered])).toEqual(['LEASE_LOST', 'LEASE_LOST', 'ACTIVE']);
  });

  test('a lost registration of one that does not answer: SUSPECT, and removed 15 s later', () => {
    expect(run([100, gone(false)], [15_099, tick], [15_100, tick])).toEqual(['SUSPECT', 'SUSPECT', 'removed']);
  });

  test('LEASE_LOST and silent for more than 3 s: SUSPECT; a heartbeat brings it back', () => {
    expect(run([100, gone(true)], [3_100, tick], [3_101, tick], [9_000, beat])).toEqual([
      'LEASE_LOST',
      'LEASE_LOST',
      'SUSPECT',
      'LEASE_LOST',
    ]);
  });

  test('registered but silent, as one behind a partition: SUSPECT for as long as it lasts, never removed', () => {
    expect(run([3_001, tick], [1_000_000, tick], [1_000_100, beat])).toEqual(['SUSPECT', 'SUSPECT', 'ACTIVE']);
  });

  test('SUSPECT and registered again: ACTIVE', () => {
    expect(run([100, gone(false)], [10_000, registered])).toEqual(['SUSPECT', 'ACTIVE']);
  });

  test('it answers but finishes no step: SUSPECT until it does', () => {
    const stalled: HealthEvent = { type: 'heartbeat', stalledMs: 60_001 };
    expect(run([100, stalled], [200, registered], [300, beat])).toEqual(['SUSPECT', 'SUSPECT', 'ACTIVE']);
  });
});

const event: fc.Arbitrary<HealthEvent> = fc.oneof(
  fc.constant(registered),
  fc.boolean().map(gone),
  fc.constantFrom(0, 0, 0, 59_000, 61_000).map((stalledMs): HealthEvent => ({ type: 'heartbeat', stalledMs })),
  fc.constant(tick),
);

test('the state is what was heard and what is listed, whatever the order', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(6_000), event), { maxLength: 40 }), (steps) => {
      let health: Health | null = newHealth(0);
      let nowMs = 0;
      let unlistedMs = Number.NaN;
      for (const [waitMs, next] of steps) {
        nowMs += waitMs;
        const before: Health = health;
        if (next.type === 'unregistered' && before.isLeased) unlistedMs = nowMs;
        health = nextHealth(before, next, nowMs, limits);
        if (health === null) {
          expect(next.type).toBe('tick');
          expect(before).toMatchObject({ state: 'SUSPECT', isLeased: false });
          expect(Math.min(nowMs - before.sinceMs, nowMs - unlistedMs)).toBeGreaterThanOrEqual(limits.suspectMs);
          return;
        }
        const isLost = nowMs - health.lastHeardMs > limits.silentMs || health.stalledMs > limits.stalledMs;
        expect(health.state).toBe(isLost ? 'SUSPECT' : health.isLeased ? 'ACTIVE' : 'LEASE_LOST');
        expect(health.sinceMs).toBe(health.state === before.state ? before.sinceMs : nowMs);
        if (next.type === 'heartbeat') expect(health.lastHeardMs).toBe(nowMs);
        if (next.type === 'registered') expect(health.isLeased).toBe(true);
        if (next.type === 'unregistered') expect(health.isLeased).toBe(false);
        if (next.type === 'unregistered' && !next.answered) expect(health.state).toBe('SUSPECT');
      }
    }),
    { numRuns },
  );
});
