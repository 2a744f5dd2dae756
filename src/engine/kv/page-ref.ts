// Owns page ids: a pool and an index in it, so that a block may lie in the memory of a paired instance. Pure.

const indexBits = 24;
/** Pages that a pool can have at most; ids from here on are foreign. */
export const maxPoolPages = 1 << indexBits;
/** Foreign pools are 1 to this; the instance's own is 0, so that its ids are plain indices. */
export const maxForeignPools = 126;

export function pageRef(pool: number, index: number): number {
  return pool * maxPoolPages + index;
}

export function isForeign(page: number): boolean {
  return page >= maxPoolPages;
}

export function poolOf(page: number): number {
  return page >>> indexBits;
}

export function indexOf(page: number): number {
  return page & (maxPoolPages - 1);
}
