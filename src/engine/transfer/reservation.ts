// Owns the room made for one sequence that is to come: its KV, what of it has arrived, and whether it is whole. Pure.
import type { BlockDigest } from '../../common/block-digest.ts';
import type { SubmitRequest } from '../../contract/generated/xllm_pb.js';
import type { KvSequence } from '../kv/kv-cache.ts';
import type { SequenceSpec } from '../scheduler/spec.ts';

export interface Reservation {
  readonly transfer: bigint;
  readonly request: SubmitRequest;
  readonly choice: number;
  readonly spec: Omit<SequenceSpec, 'id' | 'group'>;
  readonly root: BlockDigest;
  /** Of the record's full blocks: what arrives must be these. */
  readonly digests: BlockDigest[];
  readonly kv: KvSequence;
  /** Leading blocks that were here already. */
  readonly numHeld: number;
  /** [G] by block: digest of what has arrived; '': of a partial block. */
  readonly arrived: readonly Map<number, string>[];
}

/** `digests`: of all full blocks by now. Why what has arrived is not what was handed over; 'incomplete': some of it is on its way; null: all is well. */
export function faultOf(
  { arrived, numHeld, digests }: Pick<Reservation, 'arrived' | 'numHeld' | 'digests'>,
  runs: readonly { readonly firstBlock: number; readonly numBlocks: number }[],
): string | null {
  for (const [group, { firstBlock, numBlocks }] of runs.entries()) {
    for (let block = Math.max(firstBlock, numHeld); block < firstBlock + numBlocks; block++) {
      const digest = arrived[group]?.get(block);
      if (digest === undefined) return 'incomplete';
      if (digest !== (digests[block] ?? '')) return `block ${block} is not the one that was handed over`;
    }
  }
  return null;
}
