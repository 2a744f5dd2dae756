// Pages that others have: each time that one is out comes back once, and what is given outlives what is lent.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Leases } from './leases.ts';

const page = fc.record({ group: fc.integer({ min: 0, max: 1 }), page: fc.integer({ min: 0, max: 5 }) });

test('removals never exceed additions, page by page', () => {
  const operations = fc.array(fc.record({ of: page, isAdded: fc.boolean() }), { maxLength: 60 });
  fc.assert(
    fc.property(operations, (list) => {
      const leases = new Leases();
      const counts = new Map<string, number>();
      for (const { of, isAdded } of list) {
        const key = `${of.group}/${of.page}`;
        const count = counts.get(key) ?? 0;
        if (isAdded) leases.add({ ...of, isGiven: of.page === 5 });
        else expect(leases.remove(of.group, of.page)).toBe(count > 0);
        counts.set(key, Math.max(0, count + (isAdded ? 1 : -1)));
      }
      const numOut = [...counts.values()].reduce((sum, count) => sum + count, 0);
      const numGiven = [...counts].reduce((sum, [key, count]) => sum + (key.endsWith('/5') ? count : 0), 0);
      expect(leases.removeAll(false)).toHaveLength(numOut - numGiven);
      expect(leases.removeAll(true)).toHaveLength(numGiven);
      expect(leases.numPages).toBe(0);
    }),
  );
});
