// Owns the order in which sequences are served, and the sorted queue that keeps it.
import { invariant } from '../../common/errors.ts';
import type { Sequence } from './sequence.ts';
import type { SchedulingPolicy } from './spec.ts';

/** Negative: a goes before b. Total: no two sequences have the same arrival. */
export type Order = (a: Sequence, b: Sequence) => number;

const byArrival: Order = (a, b) => a.arrival - b.arrival;

/** Online before offline under every policy. */
export const orders: Readonly<Record<SchedulingPolicy, Order>> = {
  fcfs: (a, b) => Number(a.spec.offline) - Number(b.spec.offline) || byArrival(a, b),
  priority: (a, b) =>
    Number(a.spec.offline) - Number(b.spec.offline) || a.spec.priority - b.spec.priority || byArrival(a, b),
};

/** Sequences in the order of a policy. */
export class SequenceQueue {
  readonly #order: Order;
  readonly #items: Sequence[] = [];

  constructor(order: Order) {
    this.#order = order;
  }

  get length(): number {
    return this.#items.length;
  }

  get items(): readonly Sequence[] {
    return this.#items;
  }

  /** Where the sequence is, or would be. */
  indexOf(sequence: Sequence): number {
    let low = 0;
    let high = this.#items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#order(this.#items[middle]!, sequence) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  insert(sequence: Sequence): void {
    this.#items.splice(this.indexOf(sequence), 0, sequence);
  }

  remove(sequence: Sequence): void {
    const index = this.indexOf(sequence);
    invariant(this.#items[index] === sequence, `sequence ${sequence.spec.id} is not queued`);
    this.#items.splice(index, 1);
  }
}
