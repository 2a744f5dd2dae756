// Owns how a sequence's update becomes its message on the wire.
import { create } from '@bufbuild/protobuf';
import { bytesOfFloat32, bytesOfInt32 } from '../../contract/codec.ts';
import {
  FinishReason as WireFinish,
  type SequenceDelta,
  SequenceDeltaSchema,
  type StepBatch,
  StepBatchSchema,
  type TokenLogprobs as WireLogprobs,
  TokenLogprobsSchema,
} from '../../contract/generated/xllm_pb.js';
import type { FinishReason, SequenceUpdate, TokenLogprobs } from '../scheduler/spec.ts';

const wireFinish: Readonly<Record<FinishReason, WireFinish>> = {
  stop: WireFinish.FINISH_STOP,
  length: WireFinish.FINISH_LENGTH,
  abort: WireFinish.FINISH_ABORT,
  error: WireFinish.FINISH_ERROR,
  'handed-off': WireFinish.FINISH_HANDED_OFF,
};

/** What a step has to tell one replica. */
export class StepMessage {
  readonly #deltas: SequenceDelta[] = [];
  readonly #tokens: number[] = [];

  /** `isFirst`: this is the sequence's first message with tokens, which carries what is known since admission. */
  add(update: SequenceUpdate, address: DeltaAddress, isFirst: boolean): void {
    const [token] = update.tokenIds;
    if (isFirst || token === undefined || !isLoneToken(update)) {
      this.#deltas.push(messageOfUpdate(update, address, isFirst));
    } else this.#tokens.push(update.id, update.numBefore, token);
  }

  encode(stepId: number): StepBatch {
    const tokens = bytesOfInt32(Int32Array.from(this.#tokens));
    return create(StepBatchSchema, { stepId: BigInt(stepId), deltas: this.#deltas, tokens });
  }
}

function isLoneToken({ tokenIds, finish, logprobs, promptLogprobs, error }: SequenceUpdate): boolean {
  return tokenIds.length === 1 && !finish && !error && logprobs.length === 0 && promptLogprobs.length === 0;
}

export interface DeltaAddress {
  readonly requestId: string;
  readonly attempt: number;
  readonly choice: number;
}

function messageOfUpdate(update: SequenceUpdate, address: DeltaAddress, isFirst: boolean): SequenceDelta {
  const { timing, error } = update;
  return create(SequenceDeltaSchema, {
    ...address,
    sequence: update.id,
    numBefore: update.numBefore,
    // A copy: the update's array is reused by the next commit, and gRPC sends later.
    tokenIds: bytesOfInt32(update.tokenIds.slice()),
    finish: update.finish === null ? WireFinish.FINISH_NONE : wireFinish[update.finish],
    logprobs: update.logprobs.map(messageOfLogprobs),
    promptLogprobs: update.promptLogprobs.map(messageOfLogprobs),
    ...(update.stopTokenId >= 0 ? { stopTokenId: update.stopTokenId } : {}),
    ...(error ? { errorCode: error.refused, errorMessage: error.message } : {}),
    ...(isFirst && timing.numCachedTokens >= 0
      ? { numCachedTokens: timing.numCachedTokens, queueMs: timing.queueMs, prefillMs: timing.prefillMs }
      : {}),
    ...(update.finish === null ? {} : { numPreemptions: timing.numPreemptions }),
  });
}

function messageOfLogprobs({ tokenId, logprob, top }: TokenLogprobs): WireLogprobs {
  return create(TokenLogprobsSchema, {
    tokenId,
    logprob,
    rank: top?.rank ?? 1,
    ...(top ? { topIds: bytesOfInt32(top.ids), topLogprobs: bytesOfFloat32(top.logprobs) } : {}),
  });
}
