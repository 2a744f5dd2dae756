// The key store against a plain model: writes, conditions, leases running out, watchers from any revision.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { WatchEvent } from './coordinator.ts';
import { KeyStore } from './key-store.ts';

const numRuns = process.env.XLLM_TEST_FULL ? 2_000 : 200;
const KEYS = ['/a/1', '/a/2', '/b/1'];
const bytes = (value: number) => Uint8Array.of(value);

interface ModelEntry {
  readonly value: number;
  readonly revision: number;
  readonly lease: number;
}

/** What a watcher knows: fed with events, compared with the store. */
class Follower {
  readonly known = new Map<string, { readonly value: number; readonly revision: number }>();
  revision = 0;

  take(event: WatchEvent): void {
    expect(event.revision).toBeGreaterThanOrEqual(this.revision);
    this.revision = event.revision;
    if (event.kind === 'snapshot') {
      this.known.clear();
      for (const { key, value, revision } of event.entries) this.known.set(key, { value: value[0]!, revision });
    } else if (event.kind === 'put') this.known.set(event.key, { value: event.value[0]!, revision: event.revision });
    else expect(this.known.delete(event.key)).toBe(true);
  }
}

const action = fc.oneof(
  fc.record({
    type: fc.constant('put' as const),
    key: fc.constantFrom(...KEYS),
    value: fc.nat(255),
    lease: fc.nat(5),
    condition: fc.option(fc.tuple(fc.constantFrom(...KEYS), fc.nat(12))),
  }),
  fc.record({ type: fc.constant('delete' as const), key: fc.constantFrom(...KEYS) }),
  fc.record({ type: fc.constant('grant' as const), ttlMs: fc.integer({ min: 1, max: 20 }) }),
  fc.record({ type: fc.constant('refresh' as const), lease: fc.nat(5) }),
  fc.record({ type: fc.constant('revoke' as const), lease: fc.nat(5) }),
  fc.record({ type: fc.constant('wait' as const), ms: fc.nat(15) }),
  fc.record({ type: fc.constant('watch' as const), back: fc.nat(8) }),
);

test('the store and every watcher of it agree with a plain model', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
      const store = new KeyStore();
      const model = new Map<string, ModelEntry>();
      const leases = new Map<number, { ttlMs: number; expiresMs: number }>();
      const followers: Follower[] = [];
      const follow = (after?: number) => {
        const follower = new Follower();
        if (after !== undefined) {
          // It knew the prefix as of `after`: replay a snapshot's worth from the model's past is what it must get.
          for (const [key, entry] of past.get(after) ?? []) if (key.startsWith('/a/')) follower.known.set(key, entry);
          follower.revision = after;
        }
        store.watch('/a/', (event) => follower.take(event), after);
        followers.push(follower);
      };
      const past = new Map<number, Map<string, ModelEntry>>([[0, new Map()]]);
      let revision = 0;
      let nowMs = 0;
      const changed = () => past.set(revision, new Map(model));
      const drop = (key: string) => {
        if (!model.delete(key)) return;
        revision++;
        changed();
      };
      const end = (lease: number) => {
        leases.delete(lease);
        for (const [key, entry] of model) if (entry.lease === lease) drop(key);
      };
      follow();
      for (const step of actions) {
        switch (step.type) {
          case 'put': {
            const conditions = step.condition ? [{ key: step.condition[0], revision: step.condition[1] }] : [];
            const holds = conditions.every((c) => (model.get(c.key)?.revision ?? 0) === c.revision);
            const isAllowed = holds && (step.lease === 0 || leases.has(step.lease));
            const result = store.write(step.key, bytes(step.value), conditions, step.lease);
            if (isAllowed) {
              model.set(step.key, { value: step.value, revision: ++revision, lease: step.lease });
              changed();
            }
            expect(result).toBe(isAllowed ? revision : null);
            break;
          }
          case 'delete':
            store.write(step.key, null);
            drop(step.key);
            break;
          case 'grant':
            leases.set(store.grant(step.ttlMs, nowMs), { ttlMs: step.ttlMs, expiresMs: nowMs + step.ttlMs });
            break;
          case 'refresh': {
            const lease = leases.get(step.lease);
            expect(store.refresh(step.lease, nowMs)).toBe(lease !== undefined);
            if (lease) lease.expiresMs = nowMs + lease.ttlMs;
            break;
          }
          case 'revoke':
            store.revoke(step.lease);
            if (leases.has(step.lease)) end(step.lease);
            break;
          case 'wait':
            nowMs += step.ms;
            for (const [id, { expiresMs }] of leases) if (expiresMs <= nowMs) end(id);
            store.expire(nowMs);
            break;
          case 'watch':
            follow(Math.max(0, revision - step.back));
            break;
        }
        store.checkIntegrity();
        const listed = Object.fromEntries(
          [...model]
            .filter(([key]) => key.startsWith('/a/'))
            .map(([key, { value, revision: at }]) => [key, [value, at]]),
        );
        for (const { known } of followers) {
          expect(Object.fromEntries([...known].map(([key, entry]) => [key, [entry.value, entry.revision]]))).toEqual(
            listed,
          );
        }
        const next = store.nextExpiryMs();
        expect(next).toBe(leases.size === 0 ? null : Math.min(...[...leases.values()].map((l) => l.expiresMs)));
      }
    }),
    { numRuns },
  );
});

test('who asks for a revision that is forgotten or yet to come gets a snapshot', () => {
  const store = new KeyStore(100);
  store.write('/a/1', bytes(1));
  const kinds = (after: number) => {
    const seen: string[] = [];
    store.watch('/a/', (event) => seen.push(event.kind), after);
    return seen;
  };
  expect(kinds(5)).toEqual(['snapshot']);
  expect(kinds(1_000)).toEqual(['snapshot']);
  expect(kinds(100)).toEqual(['put']);
  expect(kinds(101)).toEqual([]);
});
