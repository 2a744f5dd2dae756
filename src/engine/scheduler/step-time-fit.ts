// Owns the refit of the step-time model from steps as they run: bounded, robust to outliers, never negative. Pure.
import { invariant } from '../../common/errors.ts';
import { predictStepMs, type StepShape, type StepTimeModel } from '../../common/step-time.ts';

/** Steps that are remembered, and steps between refits: a refit costs about 0.3 ms. */
const windowSteps = 512;
const refitEvery = 64;
/** The first refit comes early, so that a new engine is not judged by a foreign profile for long. */
const firstRefit = 16;
/** Weight of the starting model beside the data: decides only what the data leave open. */
const ridge = 1e-4;
/** Share of a new step in the running error. */
const errorShare = 0.02;
/** Huber's constant: residuals beyond it (in robust standard deviations) lose weight. */
const huber = 1.345;
const numFeatures = 5;

/** Least squares of relative errors over the last steps, with Huber weights, towards the starting model. */
export class StepTimeFit {
  readonly #prior: Float64Array;
  /** [windowSteps, numFeatures] */
  readonly #features = new Float64Array(windowSteps * numFeatures);
  readonly #ms = new Float64Array(windowSteps);
  #numSeen = 0;
  #model: StepTimeModel;
  #error = 0;

  constructor(prior: StepTimeModel) {
    this.#model = prior;
    this.#prior = Float64Array.of(prior.constantMs, prior.tokenMs, prior.seqMs, prior.contextMs, prior.pairMs);
  }

  get model(): StepTimeModel {
    return this.#model;
  }

  /** Running mean of |predicted - measured| / measured, each step predicted before it was learned from. */
  get error(): number {
    return this.#error;
  }

  get numSteps(): number {
    return this.#numSeen;
  }

  observe(shape: StepShape, ms: number): void {
    if (!(ms > 0)) return;
    const relative = Math.min(10, Math.abs(predictStepMs(this.#model, shape) - ms) / ms);
    const share = Math.max(errorShare, 1 / (this.#numSeen + 1));
    this.#error += share * (relative - this.#error);
    const at = this.#numSeen % windowSteps;
    const { numTokens, numSeqs, contextTokens, attendedPairs } = shape;
    this.#features.set([1, numTokens, numSeqs, contextTokens, attendedPairs], at * numFeatures);
    this.#ms[at] = ms;
    this.#numSeen++;
    if (this.#numSeen === firstRefit || this.#numSeen % refitEvery === 0) this.#refit();
  }

  #refit(): void {
    const numSteps = Math.min(this.#numSeen, windowSteps);
    const weights = new Float64Array(numSteps).fill(1);
    let solution = this.#prior;
    for (let round = 0; round < 4; round++) {
      solution = this.#solve(weights);
      this.#reweigh(weights, solution);
    }
    const [constantMs, tokenMs, seqMs, contextMs, pairMs] = solution;
    this.#model = {
      constantMs: constantMs ?? 0,
      tokenMs: tokenMs ?? 0,
      seqMs: seqMs ?? 0,
      contextMs: contextMs ?? 0,
      pairMs: pairMs ?? 0,
    };
  }

  /** Normal equations of the relative errors, and a pull of each coefficient towards its start. */
  #solve(weights: Float64Array): Float64Array {
    const matrix = new Float64Array(numFeatures * numFeatures);
    const right = new Float64Array(numFeatures);
    for (let step = 0; step < weights.length; step++) {
      const ms = this.#ms[step]!;
      const weight = weights[step]! / (ms * ms);
      for (let i = 0; i < numFeatures; i++) {
        const weighted = weight * this.#features[step * numFeatures + i]!;
        right[i]! += weighted * ms;
        for (let j = 0; j < numFeatures; j++) {
          matrix[i * numFeatures + j]! += weighted * this.#features[step * numFeatures + j]!;
        }
      }
    }
    for (let i = 0; i < numFeatures; i++) {
      const diagonal = matrix[i * numFeatures + i]!;
      // What never occurred keeps its start exactly.
      const pull = diagonal > 0 ? ridge * diagonal : 1;
      matrix[i * numFeatures + i]! += pull;
      right[i]! += pull * this.#prior[i]!;
    }
    return solveNonNegative(matrix, right);
  }

  #reweigh(weights: Float64Array, solution: Float64Array): void {
    const residuals = weights.map((_, step) => {
      let predicted = 0;
      for (let i = 0; i < numFeatures; i++) predicted += solution[i]! * this.#features[step * numFeatures + i]!;
      return Math.abs(predicted - this.#ms[step]!) / this.#ms[step]!;
    });
    const median = residuals.toSorted()[residuals.length >> 1]!;
    // A perfect fit has no outliers to speak of; below this everything counts fully.
    const limit = Math.max(1e-3, huber * 1.4826 * median);
    for (let step = 0; step < weights.length; step++) weights[step] = Math.min(1, limit / residuals[step]!);
  }
}

/** Solves for x ≥ 0: what comes out negative is set to 0, one by one, and the rest is solved again. */
function solveNonNegative(matrix: Float64Array, right: Float64Array): Float64Array {
  const n = right.length;
  const free = Array.from({ length: n }, (_, i) => i);
  while (free.length > 0) {
    const solution = solve(
      free.map((i) => free.map((j) => matrix[i * n + j]!)),
      free.map((i) => right[i]!),
    );
    const lowest = solution.indexOf(Math.min(...solution));
    if (solution[lowest]! >= 0) {
      const all = new Float64Array(n);
      free.forEach((i, at) => {
        all[i] = solution[at]!;
      });
      return all;
    }
    free.splice(lowest, 1);
  }
  return new Float64Array(n);
}

/** Gaussian elimination with row pivots. The matrix is positive definite: the ridge sees to it. */
function solve(matrix: number[][], right: number[]): number[] {
  const n = right.length;
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let row = column + 1; row < n; row++) {
      if (Math.abs(matrix[row]![column]!) > Math.abs(matrix[pivot]![column]!)) pivot = row;
    }
    [matrix[column], matrix[pivot]] = [matrix[pivot]!, matrix[column]!];
    [right[column], right[pivot]] = [right[pivot]!, right[column]!];
    invariant(matrix[column]![column] !== 0, 'the normal equations are singular');
    for (let row = column + 1; row < n; row++) {
      const factor = matrix[row]![column]! / matrix[column]![column]!;
      for (let k = column; k < n; k++) matrix[row]![k]! -= factor * matrix[column]![k]!;
      right[row]! -= factor * right[column]!;
    }
  }
  for (let row = n - 1; row >= 0; row--) {
    for (let k = row + 1; k < n; k++) right[row]! -= matrix[row]![k]! * right[k]!;
    right[row]! /= matrix[row]![row]!;
  }
  return right;
}
