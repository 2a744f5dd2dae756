// Owns balancing of decode load: which running request should go on at another instance, and why. Pure.
import { predictStepMs, type StepTimeModel } from '../../common/step-time.ts';
import { canExchangeKv } from '../registry/groups.ts';
import type { ClusterView, InstanceLoad, InstanceView } from '../registry/cluster-view.ts';

/** A request that decodes, as far as moving it goes. */
export interface RunningRequest {
  readonly id: string;
  readonly instance: string;
  /** Choices that are not finished. */
  readonly numSeqs: number;
  /** Of the longest choice: prompt and what was generated. */
  readonly numContextTokens: number;
  /** Tokens that may still come, per choice. */
  readonly maxTokensLeft: number;
  /** Milliseconds since it was moved, or since its first token. */
  readonly settledMs: number;
}

export interface BalanceMove {
  readonly request: RunningRequest;
  readonly to: string;
  /** For people. */
  readonly reason: string;
}

/** Less is not worth a move: it would end before the balance shows. */
const minTokensLeft = 64;
/** A request that has just begun, or has moved, stays for so long. */
const minSettledMs = 5_000;
/** By how much the slower of the two must become faster. */
const minGain = 0.05;
/** KV blocks of the target that a move leaves free. */
const freeShare = 0.1;

/**
 * Where one instance's decode step takes more than `margin` times (above 1) as long as another's, the request whose move
 * evens the two best; null: all is even enough, or no move would help. What a move makes is never reason for its reverse.
 */
export function balanceMove(
  { instances }: ClusterView,
  requests: readonly RunningRequest[],
  margin: number,
): BalanceMove | null {
  const able = instances.filter(
    ({ isSchedulable, roles }) => isSchedulable && (roles.includes('mix') || roles.includes('decode')),
  );
  let best: { readonly move: BalanceMove; readonly slowerMs: number; readonly ratio: number } | null = null;
  for (const from of able) {
    const own = requests.filter((request) => request.instance === from.name && isMovable(request));
    if (own.length === 0) continue;
    for (const to of able) {
      if (to === from || !canExchangeKv(from, to) || isBusyPrefilling(to)) continue;
      const [fromMs, toMs] = [stepMs(from, 0, 0), stepMs(to, 0, 0)];
      const ratio = fromMs / toMs;
      if (!(ratio > margin) || (best && best.ratio > ratio)) continue;
      for (const request of own) {
        if (!hasRoom(to, request)) continue;
        const numTokens = request.numSeqs * request.numContextTokens;
        const [newFromMs, newToMs] = [
          stepMs(from, -request.numSeqs, -numTokens),
          stepMs(to, request.numSeqs, numTokens),
        ];
        const slowerMs = Math.max(newFromMs, newToMs);
        if (slowerMs > (1 - minGain) * fromMs || newToMs > margin * newFromMs) continue;
        if (best && best.ratio === ratio && best.slowerMs <= slowerMs) continue;
        const reason =
          `a decode step takes ${fromMs.toFixed(1)} ms at ${from.name} and ${toMs.toFixed(1)} ms at ${to.name}; ` +
          `after the move ${newFromMs.toFixed(1)} and ${newToMs.toFixed(1)} ms`;
        best = { move: { request, to: to.name, reason }, slowerMs, ratio };
      }
    }
  }
  return best?.move ?? null;
}

function isMovable({ maxTokensLeft, settledMs }: RunningRequest): boolean {
  return maxTokensLeft >= minTokensLeft && settledMs >= minSettledMs;
}

/** Its next steps belong to prompts: who moves there would wait for them. */
function isBusyPrefilling({ load, unreported, capacity }: InstanceView): boolean {
  return load.numWaiting > 0 || load.numQueuedTokens + unreported.numPromptTokens > capacity.maxNumBatchedTokens / 4;
}

function hasRoom({ capacity, load }: InstanceView, request: RunningRequest): boolean {
  const { numSeqs, numContextTokens, maxTokensLeft } = request;
  const numTokens = numContextTokens + maxTokensLeft;
  const numBlocks = numSeqs * Math.ceil(numTokens / capacity.blockTokens);
  return (
    numTokens <= capacity.maxModelLen &&
    load.numRunning + numSeqs <= capacity.maxNumSeqs &&
    load.numKvBlocksUsed + numBlocks <= (1 - freeShare) * capacity.numKvBlocks
  );
}

/** Of an instance that has said nothing: comparisons need some scale. */
const unknownStepTime: StepTimeModel = { constantMs: 5, tokenMs: 1, seqMs: 0.3, contextMs: 1e-3, pairMs: 0 };

/** A decode step of what runs there, and `moreSeqs` of `moreTokens` in all. */
function stepMs({ load, stepTime }: InstanceView, moreSeqs: number, moreTokens: number): number {
  const { numSeqs, numTokens } = shapeOf(load, moreSeqs, moreTokens);
  const shape = { numTokens: numSeqs, numSeqs, contextTokens: numTokens, attendedPairs: numTokens };
  return predictStepMs(stepTime ?? unknownStepTime, shape);
}

function shapeOf({ numRunning, numContextTokens }: InstanceLoad, moreSeqs: number, moreTokens: number) {
  return {
    numSeqs: Math.max(0, numRunning + moreSeqs),
    numTokens: Math.max(0, numContextTokens + moreTokens),
  };
}
