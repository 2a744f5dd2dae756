// Owns how a sequence's news on the wire becomes the service's view of it.
import type { ErrorCode } from '../../common/errors.ts';
import { float32OfBytes, int32OfBytes } from '../../contract/codec.ts';
import {
  FinishReason,
  type SequenceDelta,
  type StepBatch,
  type TokenLogprobs,
} from '../../contract/generated/xllm_pb.js';
import type { EngineDelta, EngineFinish, TokenLogprob } from '../engine-client.ts';

const finishNames: Readonly<Record<FinishReason, EngineFinish | null>> = {
  [FinishReason.FINISH_NONE]: null,
  [FinishReason.FINISH_STOP]: 'stop',
  [FinishReason.FINISH_LENGTH]: 'length',
  [FinishReason.FINISH_ABORT]: 'abort',
  [FinishReason.FINISH_ERROR]: 'error',
  [FinishReason.FINISH_HANDED_OFF]: 'handed-off',
};

export function deltaOfMessage(message: SequenceDelta): EngineDelta {
  const finish = finishNames[message.finish];
  return {
    choice: message.choice,
    tokenIds: int32OfBytes(message.tokenIds),
    numBefore: message.numBefore,
    logprobs: message.logprobs.map(logprobOfMessage),
    promptLogprobs: message.promptLogprobs.map(logprobOfMessage),
    finish,
    stopTokenId: message.stopTokenId ?? null,
    numCachedTokens: message.numCachedTokens ?? null,
    queueMs: message.queueMs ?? null,
    prefillMs: message.prefillMs ?? null,
    numPreemptions: message.numPreemptions ?? 0,
    ...(message.stays ? { stays: true } : {}),
    error:
      finish === 'error'
        ? { refused: (message.errorCode || 'internal_error') as ErrorCode, message: message.errorMessage }
        : null,
  };
}

function logprobOfMessage(message: TokenLogprobs): TokenLogprob {
  return {
    tokenId: message.tokenId,
    logprob: message.logprob,
    rank: message.rank,
    topIds: int32OfBytes(message.topIds),
    topLogprobs: float32OfBytes(message.topLogprobs),
  };
}

/** Numbers of a token in `StepBatch.tokens`. */
const TOKEN_FIELDS = 3;

/**
 * Calls back for each lone token of a step: the sequence, the tokens that it generated before, the token. Throws RangeError on
 * a malformed message.
 */
export function forEachToken(
  { tokens }: StepBatch,
  body: (sequence: number, numBefore: number, token: number) => void,
): void {
  const numbers = int32OfBytes(tokens);
  for (let i = 0; i + TOKEN_FIELDS <= numbers.length; i += TOKEN_FIELDS) {
    body(numbers[i]!, numbers[i + 1]!, numbers[i + 2]!);
  }
}

/** A delta that says nothing yet. */
export function emptyDelta(choice: number): EngineDelta {
  return {
    choice,
    tokenIds: new Int32Array(0),
    numBefore: 0,
    logprobs: [],
    promptLogprobs: [],
    finish: null,
    stopTokenId: null,
    numCachedTokens: null,
    queueMs: null,
    prefillMs: null,
    numPreemptions: 0,
    error: null,
  };
}
