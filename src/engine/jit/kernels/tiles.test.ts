// How attention is cut into work: every token once, every visible position once, the cheapest first.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CHUNK_POSITIONS, planTiles, tileTokens } from './tiles.ts';

const rows = fc.array(
  fc
    .record({
      firstPosition: fc.integer({ min: 0, max: 5000 }),
      numTokens: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 300 })),
      firstSegment: fc.integer({ min: 0, max: 5000 }),
    })
    .map(({ firstPosition, numTokens, firstSegment }) => ({
      firstPosition,
      numTokens,
      segments: [{ firstPosition: Math.min(firstSegment, firstPosition) & ~15 }],
    })),
  { maxLength: 12 },
);

test('tiles cover every token once; parts of a token cover all its chunks once', () => {
  fc.assert(
    fc.property(rows, fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 16 }), (all, group, numKvHeads) => {
      const tiles = planTiles(all, group, numKvHeads);
      const covered = new Map<number, number[]>();
      for (const tile of tiles) {
        expect(tile.numTokens * group).toBeLessThanOrEqual(Math.max(48, group));
        for (let token = 0; token < tile.numTokens; token++) {
          const parts = covered.get(tile.firstToken + token) ?? [];
          covered.set(tile.firstToken + token, [...parts, tile.part]);
        }
        const row = all[tile.row];
        const first = row?.segments[0]?.firstPosition ?? 0;
        if (tile.numParts > 1) {
          expect(tile.numTokens).toBe(1);
          expect(tile.partStart).toBe(tile.part === 0 ? first : tile.partStart - (tile.partStart % CHUNK_POSITIONS));
          expect(tile.partStart).toBeLessThanOrEqual(tile.firstPosition);
          expect(Math.floor(tile.partStart / CHUNK_POSITIONS) - Math.floor(first / CHUNK_POSITIONS)).toBe(tile.part);
        }
      }
      let token = 0;
      for (const [index, { numTokens, firstPosition }] of all.entries()) {
        for (let i = 0; i < numTokens; i++, token++) {
          const own = tiles.find((tile) => tile.firstToken <= token && token < tile.firstToken + tile.numTokens);
          expect(own?.row).toBe(index);
          expect((own?.firstPosition ?? 0) + token - (own?.firstToken ?? 0)).toBe(firstPosition + i);
          const parts = covered.get(token) ?? [];
          expect(parts.toSorted((a, b) => a - b)).toEqual(
            Array.from({ length: own?.numParts ?? 0 }, (_, part) => part),
          );
        }
      }
    }),
  );
});

test('long single tokens are cut only while there is little other work', () => {
  const decode = { firstPosition: 2000, numTokens: 1, segments: [{ firstPosition: 0 }] };
  expect(planTiles([decode], 3, 3).length).toBe(4);
  expect(
    planTiles(
      Array.from({ length: 16 }, () => decode),
      3,
      3,
    ).length,
  ).toBe(16);
  expect(planTiles([{ ...decode, numTokens: 2 }], 3, 3).length).toBe(1);
});

test('prefill tiles come in the order of their tokens and fill registers', () => {
  const tiles = planTiles([{ firstPosition: 0, numTokens: 512, segments: [{ firstPosition: 0 }] }], 3, 3);
  expect(tiles.map(({ firstPosition }) => firstPosition)).toEqual(Array.from({ length: 32 }, (_, i) => 16 * i));
  for (let group = 1; group <= 72; group++) expect(tileTokens(group)).toBeGreaterThan(0);
});
