// Owns where a graph's intermediate results lie in their shared buffer: results whose lives do not overlap share bytes. Pure.

/** What one node of a graph needs, in the order in which nodes run. */
export interface PlanNode {
  /** Of its result; 0: it has none of its own. */
  readonly numBytes: number;
  /** Earlier nodes that it reads. */
  readonly sources: readonly number[];
}

export interface MemoryPlan {
  /** By node; meaningless where numBytes is 0. */
  readonly offsets: Float64Array;
  readonly numBytes: number;
}

const alignment = 64;

/** `kept`: nodes whose results must survive the whole graph. */
export function planMemory(nodes: readonly PlanNode[], kept: readonly number[]): MemoryPlan {
  const lastUse = new Int32Array(nodes.length);
  nodes.forEach((node, i) => {
    lastUse[i] = i;
    for (const source of node.sources) lastUse[source] = i;
  });
  for (const node of kept) lastUse[node] = nodes.length;
  const dying: number[][] = nodes.map(() => []);
  lastUse.forEach((last, i) => dying[last]?.push(i));

  const offsets = new Float64Array(nodes.length);
  const space = new FreeSpace();
  const sizes = nodes.map(({ numBytes }) => Math.ceil(numBytes / alignment) * alignment);
  nodes.forEach((_, i) => {
    const size = sizes[i]!;
    if (size > 0) offsets[i] = space.take(size);
    // A result and its sources never share bytes: threads read and write them at the same time.
    for (const dead of dying[i]!) if (sizes[dead]! > 0) space.give(offsets[dead]!, sizes[dead]!);
  });
  return { offsets, numBytes: space.highest };
}

/** Free byte ranges below the highest one used: sorted, never touching each other. */
class FreeSpace {
  readonly #ranges: { start: number; end: number }[] = [];
  highest = 0;

  /** The smallest range that fits, else new space at the end. */
  take(size: number): number {
    let best: { start: number; end: number } | undefined;
    for (const range of this.#ranges) {
      const length = range.end - range.start;
      if (length >= size && (!best || length < best.end - best.start)) best = range;
    }
    if (best) {
      const { start } = best;
      best.start += size;
      if (best.start === best.end) this.#ranges.splice(this.#ranges.indexOf(best), 1);
      return start;
    }
    const last = this.#ranges.at(-1);
    const start = last?.end === this.highest ? last.start : this.highest;
    if (last?.end === this.highest) this.#ranges.pop();
    this.highest = start + size;
    return start;
  }

  give(start: number, size: number): void {
    const end = start + size;
    let at = this.#ranges.findIndex((range) => range.start > start);
    if (at < 0) at = this.#ranges.length;
    const before = this.#ranges[at - 1];
    const after = this.#ranges[at];
    if (before?.end === start && after?.start === end) {
      before.end = after.end;
      this.#ranges.splice(at, 1);
    } else if (before?.end === start) before.end = end;
    else if (after?.start === end) after.start = start;
    else this.#ranges.splice(at, 0, { start, end });
  }
}
