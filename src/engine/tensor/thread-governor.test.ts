// The governor against simulated machines: quiet, crowded, and changing.
import { expect, test } from 'vitest';
import { ThreadGovernor } from './thread-governor.ts';

/** Runs steps on a machine whose step time depends on the number of threads; returns how many used each number. */
function simulate(
  governor: ThreadGovernor,
  numSteps: number,
  msOf: (threads: number, step: number) => number,
): Map<number, number> {
  const used = new Map<number, number>();
  for (let step = 0; step < numSteps; step++) {
    const graph = `bucket-${step % 3}`;
    const threads = governor.choose(graph);
    used.set(threads, (used.get(threads) ?? 0) + 1);
    governor.observe(graph, threads, msOf(threads, step) * (1 + (step % 3)));
  }
  return used;
}

const quiet = (threads: number) => 8 / threads;
/** Spinning threads that wait for a core: each further thread makes it worse. */
const crowded = (threads: number) => (threads === 1 ? 16 : 60 * threads);

test('a quiet machine keeps all threads, and probes cost little', () => {
  const used = simulate(new ThreadGovernor(2), 5_000, quiet);
  expect(used.get(2)).toBeGreaterThan(4_950);
});

test('a crowded machine goes down to one thread within a few dozen steps', () => {
  const used = simulate(new ThreadGovernor(4), 1_000, crowded);
  expect(used.get(1)).toBeGreaterThan(900);
});

test('when the crowd comes it goes down, when it leaves it comes back up', () => {
  const governor = new ThreadGovernor(2);
  simulate(governor, 500, quiet);
  const during = simulate(governor, 500, crowded);
  expect(during.get(1)).toBeGreaterThan(400);
  const after = simulate(governor, 3_000, quiet);
  expect(after.get(2)).toBeGreaterThan(2_000);
});

test('one thread stays one thread', () => {
  expect(simulate(new ThreadGovernor(1), 100, quiet)).toEqual(new Map([[1, 100]]));
});
