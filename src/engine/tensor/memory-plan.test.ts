// Random graphs: results that are needed at the same time never share bytes, and little more is used than must be.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { type PlanNode, planMemory } from './memory-plan.ts';

const numRuns = process.env['XLLM_TEST_FULL'] ? 5_000 : 300;

const graphs = fc
  .array(fc.record({ numBytes: fc.integer({ min: 0, max: 1_000 }), picks: fc.array(fc.nat(), { maxLength: 3 }) }), {
    minLength: 1,
    maxLength: 60,
  })
  .map((specs) =>
    specs.map(({ numBytes, picks }, i): PlanNode => ({ numBytes, sources: i === 0 ? [] : picks.map((p) => p % i) })),
  );

/** [first, last] node during which each result is needed. */
function lives(nodes: readonly PlanNode[], kept: readonly number[]): [number, number][] {
  return nodes.map((_, i) => {
    const readers = nodes.flatMap(({ sources }, reader) => (sources.includes(i) ? [reader] : []));
    return [i, kept.includes(i) ? nodes.length : Math.max(i, ...readers)];
  });
}

it('keeps results apart that live at the same time', () => {
  fc.assert(
    fc.property(graphs, fc.array(fc.nat(), { maxLength: 2 }), (nodes, picks) => {
      const kept = picks.map((pick) => pick % nodes.length);
      const { offsets, numBytes } = planMemory(nodes, kept);
      const spans = lives(nodes, kept);
      for (const [a, nodeA] of nodes.entries()) {
        expect(offsets[a]! % 64).toBe(0);
        expect(offsets[a]! + nodeA.numBytes).toBeLessThanOrEqual(Math.max(numBytes, offsets[a]!));
        for (let b = 0; b < a; b++) {
          const nodeB = nodes[b]!;
          const overlapInTime = spans[a]![0] <= spans[b]![1];
          const apart = offsets[a]! + nodeA.numBytes <= offsets[b]! || offsets[b]! + nodeB.numBytes <= offsets[a]!;
          if (overlapInTime && nodeA.numBytes > 0 && nodeB.numBytes > 0) expect(apart).toBe(true);
        }
      }
    }),
    { seed: 3, numRuns },
  );
});

it('uses two buffers in turn for a chain', () => {
  const chain = Array.from({ length: 50 }, (_, i): PlanNode => ({ numBytes: 640, sources: i === 0 ? [] : [i - 1] }));
  expect(planMemory(chain, [49]).numBytes).toBe(2 * 640);
});
