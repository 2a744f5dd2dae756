// Owns which page holds the content of which block digest, within one cache group. Pure.
import type { BlockDigest } from '../../common/block-digest.ts';
import { invariant } from '../../common/errors.ts';
import type { PageId } from '../../common/ids.ts';
import type { KvEventLog } from './kv-events.ts';
import { noPage } from './page-pool.ts';

/** Pages stay valid until forgotten; when that is, the owner of the pool decides. */
export class PrefixCache {
  readonly #pageOf = new Map<BlockDigest, PageId>();
  readonly #digestOf: (BlockDigest | undefined)[];
  readonly #events: KvEventLog | null;

  /** `events`: where to log what enters and leaves; null: another group's cache speaks for the instance. */
  constructor(numPages: number, events: KvEventLog | null) {
    this.#digestOf = Array.from({ length: numPages }, () => undefined);
    this.#events = events;
  }

  get size(): number {
    return this.#pageOf.size;
  }

  /** noPage: not cached. */
  lookup(digest: BlockDigest): PageId {
    return this.#pageOf.get(digest) ?? noPage;
  }

  has(page: PageId): boolean {
    return this.#digestOf[page] !== undefined;
  }

  /** Enters a written page. Of two pages with the same content the first stays; returns whether this one did. */
  insert(digest: BlockDigest, page: PageId): boolean {
    const known = this.#pageOf.get(digest);
    if (known !== undefined) return known === page;
    invariant(this.#digestOf[page] === undefined, `page ${page} already has a digest`);
    this.#pageOf.set(digest, page);
    this.#digestOf[page] = digest;
    this.#events?.append(digest, true);
    return true;
  }

  forget(page: PageId): void {
    const digest = this.#digestOf[page];
    invariant(digest !== undefined, `page ${page} has no digest to forget`);
    this.#pageOf.delete(digest);
    this.#digestOf[page] = undefined;
    this.#events?.append(digest, false);
  }

  digests(): Iterable<BlockDigest> {
    return this.#pageOf.keys();
  }

  checkIntegrity(): void {
    for (const [digest, page] of this.#pageOf) {
      invariant(this.#digestOf[page] === digest, `page ${page} has another digest than the index`);
    }
    const numKnown = this.#digestOf.filter((digest) => digest !== undefined).length;
    invariant(numKnown === this.#pageOf.size, 'a page has a digest that the index lacks');
  }
}
