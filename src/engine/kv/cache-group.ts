// Owns what a model declares about its KV cache: groups of layers that keep, and so share pages, alike.

export interface CacheGroup {
  readonly name: string;
  /** Model layers in the order in which they lie in a page. */
  readonly layers: readonly number[];
  readonly kind: CacheKind;
  readonly numKvHeads: number;
  /** Elements per head and token. */
  readonly keyDim: number;
  /** 0: the group keeps no values (latent attention). */
  readonly valueDim: number;
  readonly element: KvElement;
}

/** `window`: a token attends to itself and the `numTokens - 1` before it; older pages are given back. */
export type CacheKind = { readonly type: 'paged' } | { readonly type: 'window'; readonly numTokens: number };

/** `int8`: multiples of a scale that each token's head has for itself. Only emitted kernels know `bf16` and `int8`. */
export type KvElement = 'f16' | 'bf16' | 'f32' | 'int8';

export const kvElementBytes: Readonly<Record<KvElement, number>> = { f16: 2, bf16: 2, f32: 4, int8: 1 };
/** A float for each token, head and K or V. */
export const kvScaleBytes: Readonly<Record<KvElement, number>> = { f16: 0, bf16: 0, f32: 0, int8: 4 };

/** First position that the token at `position` still reads. */
export function firstReadPosition(kind: CacheKind, position: number): number {
  return kind.type === 'paged' ? 0 : Math.max(0, position - kind.numTokens + 1);
}

/**
 * Pages that one sequence holds at most in a group while it grows to `numTokens` in steps of at most `maxStepTokens`.
 * A window keeps what uncommitted steps may read: two of them can be in flight.
 */
export function maxPagesPerSequence(
  kind: CacheKind,
  numTokens: number,
  blockTokens: number,
  maxStepTokens: number,
): number {
  const all = Math.ceil(numTokens / blockTokens);
  if (kind.type === 'paged') return all;
  return Math.min(all, Math.ceil((kind.numTokens - 1 + 2 * maxStepTokens) / blockTokens) + 1);
}
