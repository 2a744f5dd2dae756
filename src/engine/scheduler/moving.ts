// Owns what a transfer sees of a sequence: what of its KV is written, and whether it stands still.
import type { BlockDigest } from '../../common/block-digest.ts';
import type { KvSequence } from '../kv/kv-cache.ts';
import type { Sequence } from './sequence.ts';
import type { SequenceSpec } from './spec.ts';
import type { SchedulerState } from './state.ts';

export interface MovingSequence {
  readonly spec: SequenceSpec;
  /** null: it waits, or has been preempted. */
  readonly kv: KvSequence | null;
  /** What it brought from another instance, while it waits. */
  readonly importedKv: KvSequence | null;
  /** Of tokens whose KV is written by committed steps; valid for all full blocks among them. */
  readonly digests: readonly BlockDigest[];
  readonly numComputed: number;
  /** Generated tokens, those of earlier attempts included. */
  readonly generatedIds: Int32Array;
  /** It is held, no step in flight has it, and all of its tokens but the last are computed: it can be handed over. */
  readonly isSettled: boolean;
}

export function movingSequence({ hasher }: SchedulerState, sequence: Sequence): MovingSequence {
  const { spec, kv, digests, root, tokens, numTokens, numPrompt, numComputed } = sequence;
  hasher.extend(digests, root, tokens, numComputed);
  return {
    spec,
    kv: sequence.state === 'running' ? kv : null,
    importedKv: sequence.imported?.kv ?? null,
    digests,
    numComputed,
    generatedIds: tokens.slice(numPrompt, numTokens),
    isSettled:
      sequence.state === 'running' &&
      numTokens > sequence.holdFrom &&
      sequence.numInFlight === 0 &&
      sequence.numPending === 0 &&
      numComputed === numTokens - 1,
  };
}
