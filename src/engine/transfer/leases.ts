// Owns which of our pages a paired instance has: lent ones until a time, given ones until it gives them back. Pure.
import { pageRef } from '../kv/page-ref.ts';

export interface LeasedPage {
  readonly group: number;
  readonly page: number;
  /** Lent pages are full and only read; a given one is partial and written by the other instance. */
  readonly isGiven: boolean;
}

interface Lease extends LeasedPage {
  count: number;
}

/** Pages of one pairing. The same page may be out several times, once for each sequence that reads it. */
export class Leases {
  readonly #leases = new Map<number, Lease>();

  get numPages(): number {
    return this.#leases.size;
  }

  add(leased: LeasedPage): void {
    const key = keyOf(leased);
    const lease = this.#leases.get(key);
    if (lease) lease.count++;
    else this.#leases.set(key, { ...leased, count: 1 });
  }

  /** One of the times that the page is out is over. false: it is not out: a return that comes twice changes nothing. */
  remove(group: number, page: number): boolean {
    const key = keyOf({ group, page });
    const lease = this.#leases.get(key);
    if (!lease) return false;
    if (--lease.count === 0) this.#leases.delete(key);
    return true;
  }

  /** Removes all that are lent and, with `givenToo`, those given; one entry for each time that a page is out. */
  removeAll(givenToo: boolean): LeasedPage[] {
    const removed: LeasedPage[] = [];
    for (const [key, lease] of this.#leases) {
      if (lease.isGiven && !givenToo) continue;
      this.#leases.delete(key);
      for (let i = 0; i < lease.count; i++) removed.push(lease);
    }
    return removed;
  }
}

function keyOf({ group, page }: { readonly group: number; readonly page: number }): number {
  return pageRef(group, page);
}
