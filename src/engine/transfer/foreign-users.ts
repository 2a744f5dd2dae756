// Owns the sequences here that use pages of other instances: copies full blocks in the background, gives pages back.
import { invariant, XllmError } from '../../common/errors.ts';
import type { KvCache, KvSequence } from '../kv/kv-cache.ts';
import type { BlockCopy } from '../kv/kv-exchange.ts';
import { indexOf, poolOf } from '../kv/page-ref.ts';
import type { PageStore } from '../kv/spaces/page-store.ts';
import type { MovingSequence } from '../scheduler/moving.ts';
import type { TransferFigures } from './figures.ts';

/** What is known of a pairing by those that use its pages. */
export interface ForeignOwner {
  readonly pool: number;
  readonly isOver: boolean;
  readonly isLeaseGood: boolean;
  readonly isLeaseEnding: boolean;
  numForeign: number;
}

export interface ForeignUsersOptions<Owner extends ForeignOwner> {
  readonly kv: KvCache;
  readonly pages: PageStore;
  readonly figures: TransferFigures;
  readonly moving: (id: number) => MovingSequence | null;
  /** Pages that must stay free for the running sequences' next steps. */
  readonly numHeadroom: () => number;
  /** [G] indices of pages that nothing here uses any more. */
  readonly giveBack: (owner: Owner, pages: readonly number[][]) => void;
}

interface User<Owner> {
  readonly id: number;
  readonly owner: Owner;
  readonly kv: KvSequence;
  /** Tokens whose KV it brought: once there are more, it has had a step here. */
  readonly numBrought: number;
}

/** Pages of one call of `takeDropped`, and the step after which none in flight reads them. */
interface Dropped {
  readonly afterStep: number;
  readonly pages: readonly number[][];
}

/** Blocks copied at one time. */
const batchBlocks = 8;

export class ForeignUsers<Owner extends ForeignOwner> {
  readonly #options: ForeignUsersOptions<Owner>;
  readonly #users = new Map<number, User<Owner>>();
  readonly #owners = new Map<number, Owner>();
  readonly #dropped: Dropped[] = [];
  #lastPlanned = -1;
  #lastCommitted = -1;
  #isCopying = false;
  #isReading = false;
  #isRecalled = false;

  constructor(options: ForeignUsersOptions<Owner>) {
    this.#options = options;
  }

  get numUsers(): number {
    return this.#users.size;
  }

  add(id: number, owner: Owner, kv: KvSequence, numBrought: number): void {
    this.#users.set(id, { id, owner, kv, numBrought });
  }

  /** Pages of the owner have come into use. */
  used(owner: Owner, numPages: number): void {
    this.#owners.set(owner.pool, owner);
    owner.numForeign += numPages;
  }

  /** `Owner` was refused by the scheduler: the pages that `kv.free` has just dropped are not given back but still the source's. */
  disown(owner: Owner): void {
    const pages = this.#options.kv.exchange.takeDropped();
    owner.numForeign -= pages.reduce((sum, of) => sum + of.length, 0);
  }

  /** Sequences of the step whose pages may have been written since they were lent: their results cannot be used. */
  spoiled(sequenceIds: readonly number[]): number[] {
    return sequenceIds.filter((id) => {
      const user = this.#users.get(id);
      return user !== undefined && !user.owner.isLeaseGood && this.#isUsing(user);
    });
  }

  /** Sequences that must not read foreign pages for much longer. */
  ending(): number[] {
    return [...this.#users.values()]
      .filter((user) => user.owner.isLeaseEnding && this.#isUsing(user))
      .map(({ id }) => id);
  }

  planned(stepId: number): void {
    this.#lastPlanned = stepId;
  }

  committed(stepId: number): void {
    this.#lastCommitted = stepId;
    if (this.#users.size > 0) void this.#copyAll();
    this.flush();
  }

  /** The source is short of pages: those copied next count more than our own reserve. */
  recall(): void {
    this.#isRecalled = true;
    void this.#copyAll();
  }

  /** Gives back what no step in flight reads. To be called after anything that may have freed a sequence. */
  flush(): void {
    const pages = this.#options.kv.exchange.takeDropped();
    if (pages.some((of) => of.length > 0)) this.#dropped.push({ afterStep: this.#lastPlanned, pages });
    // Copies read foreign pages too; the next flush comes after them.
    while (!this.#isReading && this.#dropped[0] && this.#dropped[0].afterStep <= this.#lastCommitted) {
      const ready = this.#dropped.shift();
      if (ready) this.#giveBack(ready.pages);
    }
  }

  #giveBack(pages: readonly number[][]): void {
    const pools = new Set(pages.flatMap((of) => of.map(poolOf)));
    for (const pool of pools) {
      const owner = this.#owners.get(pool);
      invariant(owner, `pages of pool ${pool} are given back, and nobody owns it`);
      const own = pages.map((of) => of.filter((page) => poolOf(page) === pool).map(indexOf));
      owner.numForeign -= own.reduce((sum, of) => sum + of.length, 0);
      if (owner.numForeign === 0) this.#owners.delete(pool);
      this.#options.giveBack(owner, own);
    }
  }

  /** Whether the sequence still runs on the KV that it brought, and some of it is foreign. Forgets it if not. */
  #isUsing({ id, kv }: User<Owner>): boolean {
    const moving = this.#options.moving(id);
    // Waiting for its first step it has none yet.
    const hasIt = moving !== null && (moving.kv === kv || moving.importedKv === kv);
    if (hasIt && this.#options.kv.exchange.hasForeign(kv)) return true;
    this.#users.delete(id);
    return false;
  }

  async #copyAll(): Promise<void> {
    if (this.#isCopying) return;
    this.#isCopying = true;
    try {
      for (const user of this.#users.values()) {
        let hasMore = true;
        while (hasMore) {
          hasMore = await this.#copySome(user);
          this.flush();
        }
      }
    } finally {
      this.#isCopying = false;
      this.#isRecalled = false;
    }
  }

  /** false: nothing more can be copied now. Nothing is before the sequence has had a step here. */
  async #copySome(user: User<Owner>): Promise<boolean> {
    const { kv, pages, figures, moving, numHeadroom } = this.#options;
    if (!this.#isUsing(user)) return false;
    const sequence = moving(user.id);
    if (!sequence || sequence.numComputed <= user.numBrought) return false;
    const numFull = Math.floor(sequence.numComputed / kv.blockTokens);
    const copies = kv.exchange.startCopies(user.kv, sequence.digests, numFull, {
      max: batchBlocks,
      numHeadroom: this.#isRecalled ? 0 : numHeadroom(),
    });
    if (copies.length === 0) return false;
    let isGood = false;
    this.#isReading = true;
    try {
      await pages.ensure(kv.exchange.numTouched);
      await Promise.all(copies.map(({ group, from, to }) => pages.copyPage(group, from, to)));
      isGood = user.owner.isLeaseGood;
      figures.numBytesCopied += bytesOf(copies, pages);
    } catch (error) {
      // Without memory of its own it goes on with foreign pages for as long as it may.
      if (!(error instanceof XllmError)) throw error;
    } finally {
      this.#isReading = false;
      for (const copy of copies) kv.exchange.endCopy(copy, isGood);
    }
    return isGood;
  }
}

function bytesOf(copies: readonly BlockCopy[], { pageBytes }: PageStore): number {
  return copies.reduce((sum, { group }) => sum + (pageBytes[group] ?? 0), 0);
}
