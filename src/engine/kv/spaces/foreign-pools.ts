// Owns the pools of paired instances that are mapped here: by number, one per cache group.
import { invariant } from '../../../common/errors.ts';
import type { Address } from '../../ffi/koffi.ts';
import { type ForeignPool, mapForeignPool } from './foreign-pool.ts';
import type { PoolFile } from './page-store.ts';

export class ForeignPools {
  /** [G][pool - 1] for kernels' segments; 0 where none is attached. */
  readonly addresses: readonly Address[][];
  readonly #pools = new Map<number, readonly ForeignPool[]>();

  constructor(numGroups: number) {
    this.addresses = Array.from({ length: numGroups }, () => []);
  }

  /** Throws, and maps nothing, where one of them cannot be had. */
  attach(pool: number, files: readonly PoolFile[]): void {
    invariant(files.length === this.addresses.length && !this.#pools.has(pool), `pool ${pool} cannot be attached`);
    const mapped: ForeignPool[] = [];
    try {
      for (const file of files) mapped.push(mapForeignPool(file));
    } catch (error) {
      for (const one of mapped) one.close();
      throw error;
    }
    this.#pools.set(pool, mapped);
    mapped.forEach(({ address }, g) => {
      this.addresses[g]![pool - 1] = address;
    });
  }

  detach(pool: number): void {
    for (const one of this.#pools.get(pool) ?? []) one.close();
    this.#pools.delete(pool);
    for (const addresses of this.addresses) addresses[pool - 1] = 0;
  }

  close(): void {
    for (const pool of this.#pools.keys()) this.detach(pool);
  }
}
