// Owns the life of a pool's pages: states, reference counts, the free list and the least-recently-used list. Pure.
import { invariant } from '../../common/errors.ts';
import type { PageId } from '../../common/ids.ts';

/**
 * free: nobody's. allocated: referenced, reached through the pool mapping. mapped: referenced and mapped into a
 * sequence's range. reusable: unreferenced, but its content is cached, or it is still mapped into an idle range.
 *
 *   free ──allocate──► allocated ──map──► mapped ──release──► reusable ──allocate, share──► allocated …
 */
const pageState = { free: 0, allocated: 1, mapped: 2, reusable: 3 } as const;
export type PageStateName = keyof typeof pageState;

/** No page: the absence that typed arrays can hold. */
export const noPage = -1 as PageId;

/**
 * Unreferenced pages are in one of two intrusive lists: `free` (last freed first, because its memory is warm) or
 * `retained` (cached content, oldest first). Pages from `#numTouched` on were never used and are in neither.
 */
export class PagePool {
  readonly #state: Uint8Array;
  readonly #refs: Int32Array;
  /** List links by page; two more nodes are the heads of the circular lists. */
  readonly #next: Int32Array;
  readonly #prev: Int32Array;
  readonly #freeHead: number;
  readonly #retainedHead: number;
  readonly #isRetained: Uint8Array;
  readonly #counts = new Int32Array(4);
  #numPages: number;
  #numTouched = 0;
  #numFreeListed = 0;
  #numRetained = 0;

  constructor(numPages: number) {
    this.#numPages = numPages;
    this.#state = new Uint8Array(numPages);
    this.#refs = new Int32Array(numPages);
    this.#isRetained = new Uint8Array(numPages);
    this.#freeHead = numPages;
    this.#retainedHead = numPages + 1;
    this.#next = new Int32Array(numPages + 2);
    this.#prev = new Int32Array(numPages + 2);
    for (const head of [this.#freeHead, this.#retainedHead]) this.#next[head] = this.#prev[head] = head;
    this.#counts[pageState.free] = numPages;
  }

  get numPages(): number {
    return this.#numPages;
  }

  /** Pages from this one on were never used. */
  get numTouched(): number {
    return this.#numTouched;
  }

  /** Pages that could be allocated now, those with cached content included. */
  get numAvailable(): number {
    return this.#numPages - this.#numTouched + this.#numFreeListed + this.#numRetained;
  }

  /** Unreferenced pages with cached content. */
  get numRetained(): number {
    return this.#numRetained;
  }

  count(state: PageStateName): number {
    return this.#counts[pageState[state]]!;
  }

  refs(page: PageId): number {
    return this.#refs[page]!;
  }

  /** Whether the page can be allocated without losing cached content. */
  isFree(page: number): boolean {
    if (page < 0 || page >= this.#numPages) return false;
    // Of the never used pages only the next keeps `#numTouched` a border.
    if (page >= this.#numTouched) return page === this.#numTouched;
    return this.#refs[page] === 0 && this.#isRetained[page] === 0;
  }

  /** Takes one free page with one reference: `preferred` if it is free, else any; noPage when none is. */
  allocate(preferred: number): PageId {
    let page = noPage;
    if (this.isFree(preferred)) page = preferred as PageId;
    else if (this.#numFreeListed > 0) page = this.#next[this.#freeHead]! as PageId;
    else if (this.#numTouched < this.#numPages) page = this.#numTouched as PageId;
    if (page === noPage) return noPage;
    if (page === this.#numTouched) this.#numTouched++;
    else {
      this.#unlink(page);
      this.#numFreeListed--;
    }
    this.#refs[page] = 1;
    this.#setState(page, pageState.allocated);
    return page;
  }

  /** Adds a reference to a page that is referenced or retained. */
  share(page: PageId): void {
    if (this.#refs[page]! > 0) {
      this.#refs[page]!++;
      return;
    }
    invariant(this.#isRetained[page] === 1, `page ${page} is shared but holds nothing`);
    this.#unretain(page);
    this.#refs[page] = 1;
    this.#setState(page, pageState.allocated);
  }

  setMapped(page: PageId): void {
    invariant(this.#refs[page]! > 0, `page ${page} is mapped but nobody's`);
    this.#setState(page, pageState.mapped);
  }

  /** Drops a reference. The last one retains the page as the youngest when its content is cached, else frees it. */
  release(page: PageId, isCached: boolean): void {
    invariant(this.#refs[page]! > 0, `page ${page} is released but nobody's`);
    if (--this.#refs[page]! > 0) return;
    if (isCached) {
      this.#isRetained[page] = 1;
      this.#numRetained++;
      this.#linkBefore(page, this.#retainedHead);
      this.#setState(page, pageState.reusable);
    } else {
      this.#free(page, this.#state[page] === pageState.mapped);
    }
  }

  /** The retained page that was released longest ago; noPage when there is none. */
  oldestRetained(): PageId {
    return this.#numRetained > 0 ? (this.#next[this.#retainedHead]! as PageId) : noPage;
  }

  /** Frees a retained page: its content has been forgotten. */
  discard(page: PageId): void {
    invariant(this.#isRetained[page] === 1, `page ${page} is discarded but not retained`);
    this.#unretain(page);
    this.#free(page, false);
  }

  /** Lowers the capacity to what memory there is, but not below the pages already used. Returns the new capacity. */
  limit(numPages: number): number {
    const lowered = Math.min(this.#numPages, Math.max(numPages, this.#numTouched));
    this.#counts[pageState.free]! -= this.#numPages - lowered;
    this.#numPages = lowered;
    return lowered;
  }

  /** Throws unless every page is in exactly the lists and counts that its state demands. */
  checkIntegrity(): void {
    const counts = new Int32Array(4);
    for (let page = 0; page < this.#numPages; page++) counts[this.#state[page]!]!++;
    invariant(
      counts.every((count, state) => count === this.#counts[state]),
      `page states ${counts.join()} are counted as ${this.#counts.join()}`,
    );
    const seen = new Uint8Array(this.#numPages);
    const walk = (head: number, retained: number): number => {
      let length = 0;
      for (let page = this.#next[head]!; page !== head; page = this.#next[page]!) {
        invariant(this.#prev[this.#next[page]!] === page, `page ${page} is linked one way only`);
        invariant(seen[page]!++ === 0, `page ${page} is listed twice`);
        invariant(this.#refs[page] === 0, `page ${page} is listed but referenced`);
        invariant(this.#isRetained[page] === retained, `page ${page} is in the wrong list`);
        length++;
      }
      return length;
    };
    invariant(walk(this.#freeHead, 0) === this.#numFreeListed, 'the free list has another length than counted');
    invariant(walk(this.#retainedHead, 1) === this.#numRetained, 'the retained list has another length than counted');
    for (let page = 0; page < this.#numPages; page++) {
      const isUsed = this.#state[page] === pageState.allocated || this.#state[page] === pageState.mapped;
      invariant(isUsed === this.#refs[page]! > 0, `page ${page} has ${this.#refs[page]} references in another state`);
      const isListed = seen[page] === 1;
      invariant(isListed === (page < this.#numTouched && !isUsed), `page ${page} is lost`);
    }
  }

  #free(page: PageId, isStillMapped: boolean): void {
    this.#linkBefore(page, this.#next[this.#freeHead]!);
    this.#numFreeListed++;
    this.#setState(page, isStillMapped ? pageState.reusable : pageState.free);
  }

  #unretain(page: PageId): void {
    this.#unlink(page);
    this.#isRetained[page] = 0;
    this.#numRetained--;
  }

  #setState(page: PageId, state: number): void {
    this.#counts[this.#state[page]!]!--;
    this.#counts[state]!++;
    this.#state[page] = state;
  }

  #linkBefore(page: number, next: number): void {
    const prev = this.#prev[next]!;
    this.#next[prev] = page;
    this.#prev[page] = prev;
    this.#next[page] = next;
    this.#prev[next] = page;
  }

  #unlink(page: number): void {
    const next = this.#next[page]!;
    const prev = this.#prev[page]!;
    this.#next[prev] = next;
    this.#prev[next] = prev;
  }
}
