// The index against the cache that the events tell of: through gaps, restarts, and an engine's real event log.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { BlockDigest } from '../../common/block-digest.ts';
import { KvEventLog } from '../../engine/kv/kv-events.ts';
import { KvIndex } from './kv-index.ts';

const numRuns = process.env.XLLM_TEST_FULL ? 5_000 : 500;
const digests = Array.from({ length: 12 }, (_, i) => i.toString(16).padStart(32, '0') as BlockDigest);

const action = fc.oneof(
  { weight: 6, arbitrary: fc.record({ type: fc.constant('toggle' as const), block: fc.nat(11) }) },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('deliver' as const) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('lose' as const) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('leave' as const) }) },
);

test('after every batch that it takes the index holds what the cache holds', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20 }), fc.array(action, { maxLength: 80 }), (capacity, actions) => {
      const log = new KvEventLog(capacity);
      const cache = new Set<BlockDigest>();
      const index = new KvIndex();
      /** The stream's own position: what the engine has sent on it. */
      let sent = 0;
      const next = () => {
        const after = sent;
        const { number, isSnapshot, stored, evicted } = log.since(sent, () => cache);
        sent = number;
        return { after, number, isSnapshot, stored, evicted };
      };
      const agrees = () => {
        for (let n = 0; n < digests.length; n++) {
          const chain = digests.slice(n);
          const missing = chain.findIndex((digest) => !cache.has(digest));
          expect(index.prefixBlocks('e', chain)).toBe(missing < 0 ? chain.length : missing);
        }
        expect(index.numBlocks('e')).toBe(cache.size);
      };
      const deliver = () => {
        if (index.apply('e', next())) return;
        // As the connection does: a new stream, from a snapshot.
        sent = 0;
        expect(index.apply('e', next())).toBe(true);
      };
      for (const step of actions) {
        if (step.type === 'toggle') {
          const digest = digests[step.block]!;
          const isStored = !cache.delete(digest);
          if (isStored) cache.add(digest);
          log.append(digest, isStored);
        } else if (step.type === 'deliver') {
          deliver();
          agrees();
        } else if (step.type === 'lose') {
          next();
        } else {
          index.remove('e');
          sent = index.numberOf('e');
          expect(index.prefixBlocks('e', digests)).toBe(0);
        }
      }
      deliver();
      agrees();
    }),
    { numRuns },
  );
});

test('instances are apart, and an unknown one holds nothing', () => {
  const index = new KvIndex();
  const snapshot = { after: 0, number: 5, isSnapshot: true, evicted: [] };
  index.apply('a', { ...snapshot, stored: digests.slice(0, 3) });
  index.apply('b', { ...snapshot, stored: digests.slice(0, 1) });
  expect(['a', 'b', 'c'].map((name) => index.prefixBlocks(name, digests))).toEqual([3, 1, 0]);
  index.remove('a');
  expect(['a', 'b'].map((name) => index.prefixBlocks(name, digests))).toEqual([0, 1]);
});
