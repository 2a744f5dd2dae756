// Owns the value that tells an executor where a step's rows keep their keys and values.
// Legend: R rows (sequences) of the step.

/** Tables of one cache group. */
export interface GroupTables {
  /** [R+1] offsets into `pages`. */
  readonly pageStart: Int32Array;
  /** Page of each block of each row, in block order, from block 0; -1: released (before a sliding window). */
  readonly pages: Int32Array;
  /** [R] xTensor virtual range that holds the row, or -1: use the pages through the whole-pool mapping. */
  readonly rangeSlot: Int32Array;
  /** Triples (rangeSlot, blockIndex, page) to map before this step runs; no (rangeSlot, blockIndex) twice. */
  readonly mapOps: Int32Array;
  /** Pages from this one on have never been named, by this plan or an earlier one: they need no memory yet. */
  readonly numPagesTouched: number;
}
