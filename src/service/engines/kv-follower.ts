// Owns what one instance's prefix cache holds, as its numbered events tell.
import { type BlockDigest, digestsOfBytes } from '../../common/block-digest.ts';
import type { KvEventBatch } from '../../contract/generated/xllm_pb.js';

export class KvFollower {
  readonly #held = new Set<BlockDigest>();

  apply({ snapshot, stored, evicted }: KvEventBatch): void {
    if (snapshot) this.#held.clear();
    for (const digest of digestsOfBytes(evicted)) this.#held.delete(digest);
    for (const digest of digestsOfBytes(stored)) this.#held.add(digest);
  }

  /** How many of the leading digests are held. */
  numLeading(digests: readonly BlockDigest[]): number {
    const missing = digests.findIndex((digest) => !this.#held.has(digest));
    return missing < 0 ? digests.length : missing;
  }

  clear(): void {
    this.#held.clear();
  }
}
