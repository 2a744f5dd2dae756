// Owns the specification of pair merging: the lowest rank, leftmost first, in plain loops.
import type { PairRules } from './bpe.ts';

export function mergePairs(symbols: readonly number[], rules: PairRules): number[] {
  const ids = [...symbols];
  for (;;) {
    let best: { at: number; rank: number; merged: number } | null = null;
    for (let at = 0; at + 1 < ids.length; at++) {
      const slot = rules.find(ids[at]!, ids[at + 1]!); // at + 1 < length
      if (slot === -1) continue;
      const rank = rules.ranks[slot]!; // find gives valid slots
      if (best === null || rank < best.rank) best = { at, rank, merged: rules.merged[slot]! };
    }
    if (best === null) return ids;
    ids.splice(best.at, 2, best.merged);
  }
}
