// What would make native code abort or write astray is refused before it gets there.
import { expect, it } from 'vitest';
import type { StepPlan } from '../scheduler/plan.ts';
import { checkPlan } from './plan-check.ts';

const plan: StepPlan = {
  stepId: 1,
  numTokens: 4,
  numRows: 2,
  tokenIds: Int32Array.of(5, 6, 7, -1),
  positions: Int32Array.of(0, 1, 2, 20),
  rowStart: Int32Array.of(0, 3, 4),
  sequenceIds: [1, 2],
  previousOutput: Int32Array.of(-1, 0),
  adapterSlot: new Int32Array(2),
  outputToken: Int32Array.of(2, 3),
  outputRow: Int32Array.of(0, 1),
  outputKinds: Uint8Array.of(1, 1),
  targetIds: Int32Array.of(-1, -1),
  sampling: [],
  groups: [
    {
      pageStart: Int32Array.of(0, 1, 3),
      pages: Int32Array.of(0, 1, 2),
      rangeSlot: Int32Array.of(-1, -1),
      mapOps: new Int32Array(0),
      numPagesTouched: 3,
    },
  ],
};

it('lets a sound plan through', () => {
  expect(() => checkPlan(plan, 10, [16])).not.toThrow();
});

it.each<[string, Partial<StepPlan>, RegExp]>([
  ['an id past the vocabulary', { tokenIds: Int32Array.of(5, 6, 10, -1) }, /token id 10 is out of range/],
  ['a negative id', { tokenIds: Int32Array.of(5, -2, 7, -1) }, /token id -2/],
  ['a placeholder without a source', { previousOutput: Int32Array.of(-1, -1) }, /token id -1/],
  [
    'a placeholder inside a row',
    { tokenIds: Int32Array.of(5, -1, 7, 8), previousOutput: Int32Array.of(0, -1) },
    /token id -1/,
  ],
  ['a gap in positions', { positions: Int32Array.of(0, 1, 3, 20) }, /row 0 has a gap/],
  ['a negative position', { positions: Int32Array.of(-1, 0, 1, 20) }, /negative position/],
  ['an empty row', { rowStart: Int32Array.of(0, 4, 4) }, /row 1 is empty|gap/],
  ['borders that miss tokens', { rowStart: Int32Array.of(0, 3, 3) }, /wrong row borders/],
  ['an output of another row', { outputRow: Int32Array.of(1, 1) }, /output 0 is outside its row/],
  ['an output without a row', { outputRow: Int32Array.of(0, 2) }, /output 1 has no row/],
  ['a target past the vocabulary', { targetIds: Int32Array.of(-1, 10) }, /target id 10/],
  ['no tokens', { numTokens: 0 }, /no tokens/],
  [
    'a row without its page',
    { groups: [{ ...plan.groups[0]!, pageStart: Int32Array.of(0, 1, 2) }] },
    /row 1 has no page for block 1 of KV group 0/,
  ],
  ['a page without memory', { groups: [{ ...plan.groups[0]!, numPagesTouched: 2 }] }, /row 1 has no page for block 1/],
  [
    'a released page',
    { groups: [{ ...plan.groups[0]!, pages: Int32Array.of(-1, 1, 2) }] },
    /row 0 has no page for block 0/,
  ],
  ['an unknown KV group', { groups: [plan.groups[0]!, plan.groups[0]!] }, /no KV group 1/],
])('refuses %s', (_, change, message) => {
  expect(() => checkPlan({ ...plan, ...change }, 10, [16])).toThrow(message);
});
