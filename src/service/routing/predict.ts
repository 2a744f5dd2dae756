// Owns the prediction of what a request would meet at an instance: time to its first token, time per later one. Pure.
import { predictPrefillMs, predictStepMs, type StepShape, type StepTimeModel } from '../../common/step-time.ts';
import type { ClusterView, InstanceLoad, InstanceView } from '../registry/cluster-view.ts';
import type { Candidate, RoutingRequest } from './policy.ts';

/** Of an instance that has said nothing: a small model on a CPU. Comparisons need some scale. */
const unknownStepTime: StepTimeModel = { constantMs: 5, tokenMs: 1, seqMs: 0.3, contextMs: 1e-3, pairMs: 0 };
/** Tokens that a running sequence has still to go, as a guess: how long lengths are is not known beforehand. */
const guessedTokensLeft = 64;

export interface Prediction {
  readonly ttftMs: number;
  readonly computeMs: number;
  readonly stepMs: number;
}

/** `cachedTokens` of the prompt need not be computed. */
function predict(instance: InstanceView, request: RoutingRequest, cachedTokens: number): Prediction {
  const model = instance.stepTime ?? unknownStepTime;
  const { load, unreported, capacity } = instance;
  const { numPromptTokens, numSeqs } = request;
  const numDecoding = load.numRunning;
  const numQueuedTokens = load.numQueuedTokens + unreported.numPromptTokens;
  const numOwnTokens = Math.max(1, numPromptTokens - cachedTokens);
  // Steps hold the running decodes and, in what is left of the budget, prompts in order of arrival.
  const budget = Math.max(1, capacity.maxNumBatchedTokens - numDecoding);
  const decodeMs = predictStepMs(model, decodeShape(load, 0, 0));
  const ownMs = predictPrefillMs(model, numPromptTokens - numOwnTokens, numPromptTokens, budget);
  const numOwnSteps = Math.ceil(numOwnTokens / budget);
  const passes = numOwnTokens <= capacity.longPrefillThreshold;
  // A short prompt gets what a long one leaves of each step; a long one waits until all before it are done.
  const numStepsBefore = passes ? 0 : Math.ceil((numQueuedTokens + numOwnTokens) / budget) - numOwnSteps;
  const numSharedTokens = Math.min(numQueuedTokens, passes ? numOwnSteps * (budget - numOwnTokens) : numQueuedTokens);
  const queuedMs = Math.max(0, numSharedTokens) * model.tokenMs + numStepsBefore * (model.constantMs + model.seqMs);
  // A step under way has to end first: half of it on average.
  const isBusy = numDecoding + load.numWaiting + numQueuedTokens > 0;
  const currentMs = isBusy ? (decodeMs + Math.min(numQueuedTokens, budget) * model.tokenMs) / 2 : 0;
  const stepMs = predictStepMs(model, decodeShape(load, numSeqs, numPromptTokens));
  const numBefore = numDecoding + load.numWaiting + unreported.numRequests;
  const numTooMany = Math.max(0, numBefore + 1 - capacity.maxNumSeqs);
  const seatMs = (numTooMany * guessedTokensLeft * stepMs) / Math.max(1, capacity.maxNumSeqs);
  const sharesMs = (numStepsBefore + numOwnSteps) * (decodeMs - model.constantMs);
  return { ttftMs: currentMs + queuedMs + sharesMs + ownMs + seatMs, computeMs: ownMs, stepMs };
}

/** A step of the running sequences and `numMore` of `numTokens` each. */
function decodeShape(load: InstanceLoad, numMore: number, numTokens: number): StepShape {
  const numSeqs = load.numRunning + numMore;
  const contextTokens = load.numContextTokens + numMore * numTokens;
  return { numTokens: numSeqs, numSeqs, contextTokens, attendedPairs: contextTokens };
}

/** Instances of a role that could take the request, with what is expected there. `factorOf`: correction learned from live requests. */
export function candidatesOf(
  request: RoutingRequest,
  view: ClusterView,
  excluded: ReadonlySet<string>,
  factorOf: (instance: string) => number,
  hasRole: (instance: InstanceView) => boolean,
): Candidate[] {
  const able = view.instances.filter(
    (instance) => canTake(instance, request) && hasRole(instance) && !excluded.has(instance.name),
  );
  // Digests cost a millisecond for every few thousand tokens: where there is no choice they decide nothing.
  const matches = able.length > 1;
  return able.map((instance) => {
    const { capacity, load } = instance;
    const numMatched = matches ? view.prefixBlocks(instance.name, request.digestsFor(instance)) : 0;
    // The last token is always computed: its logits are wanted.
    const cachedTokens = Math.min(numMatched * capacity.blockTokens, request.numPromptTokens - 1);
    const { ttftMs, computeMs, stepMs } = predict(instance, request, cachedTokens);
    const numBlocks = (numTokens: number) => Math.ceil(numTokens / capacity.blockTokens);
    const numNeeded = numBlocks(request.numPromptTokens - cachedTokens) + request.numSeqs;
    const hasMemory = numNeeded <= capacity.numKvBlocks - load.numKvBlocksUsed;
    return { instance, cachedTokens, ttftMs: ttftMs * factorOf(instance.name), computeMs, stepMs, hasMemory };
  });
}

function canTake({ isSchedulable, model, capacity }: InstanceView, request: RoutingRequest): boolean {
  // The service checks lengths against one instance: another one may hold less.
  const fits = request.numPromptTokens + request.maxTokens <= capacity.maxModelLen;
  return isSchedulable && model === request.model && fits;
}
