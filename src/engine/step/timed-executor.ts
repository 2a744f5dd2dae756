// Owns the timed device: steps take the time that a cost model says, tokens are hashes of the prefix that the pages hold.
import type { Clock } from '../../common/clock.ts';
import { invariant, XllmError } from '../../common/errors.ts';
import { predictStepMs, type StepTimeModel } from '../../common/step-time.ts';
import type { StepOutput, StepPlan } from '../scheduler/plan.ts';
import { shapeOfPlan } from '../scheduler/step-shape.ts';
import type { Executor } from './executor.ts';
import { type HashStops, mix, sampleHashes } from './hash-sampling.ts';
import { emptyPrefix, equalPrefix, extendPrefix, type PrefixDigest, type TimedPages } from './timed-pages.ts';
import type { TimedStore } from './timed-store.ts';

export interface TimedExecutorOptions {
  readonly store: TimedStore;
  readonly blockTokens: number;
  readonly vocabSize: number;
  readonly stops: HashStops;
  /** What a step takes, already scaled. */
  readonly stepTime: StepTimeModel;
  readonly clock: Clock;
  /** Resolves after that many milliseconds, or somewhat later. */
  readonly sleep: (ms: number) => Promise<void>;
}

/**
 * How late a step may begin after its predecessor's modelled end and still count as back to back: timers fire late, most
 * of all while other instances use the processor, and the device must not be slower for that.
 */
const maxLagMs = 50;
/** Timers cannot wait for less; what is left is waited for with the next step. */
const minSleepMs = 0.5;
/** Sequences whose last prefix is remembered; the oldest are forgotten. */
const maxRemembered = 4096;

export class TimedExecutor implements Executor {
  readonly #options: TimedExecutorOptions;
  readonly #groups: readonly TimedPages[];
  /** By sequence: up to where it was written, and the prefix there. */
  readonly #written = new Map<number, { readonly position: number; readonly digest: PrefixDigest }>();
  #previousTokenIds: Int32Array = new Int32Array(0);
  /** Modelled end of the last step. */
  #readyMs = Number.NEGATIVE_INFINITY;

  constructor(options: TimedExecutorOptions) {
    this.#options = options;
    this.#groups = options.store.groups;
  }

  async prepare(): Promise<void> {}

  async run(plan: StepPlan): Promise<StepOutput> {
    const { vocabSize, stops, stepTime, clock, sleep } = this.#options;
    const computeMs = predictStepMs(stepTime, shapeOfPlan(plan));
    const nowMs = clock.nowMs();
    const startMs = nowMs - this.#readyMs < maxLagMs ? this.#readyMs : nowMs;
    this.#readyMs = startMs + computeMs;
    const output = sampleHashes(plan, this.#compute(plan), vocabSize, stops);
    this.#previousTokenIds = output.tokenIds;
    const leftMs = this.#readyMs - clock.nowMs();
    if (leftMs > minSleepMs) await sleep(leftMs);
    return { ...output, computeMs };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** [O] what the prefix of each output token hashes to. */
  #compute(plan: StepPlan): number[] {
    const contexts: number[] = [];
    for (let row = 0; row < plan.numRows; row++) {
      const digests = this.#writeRow(plan, row);
      const first = plan.rowStart[row]!;
      for (let output = contexts.length; plan.outputRow[output] === row; output++) {
        const digest = digests[plan.outputToken[output]! - first];
        invariant(digest, `output ${output} is outside its row`);
        contexts.push(mix(digest.low, digest.high));
      }
    }
    return contexts;
  }

  /** The prefix after each token of the row. */
  #writeRow(plan: StepPlan, row: number): PrefixDigest[] {
    const first = plan.rowStart[row]!;
    const start = plan.positions[first]!;
    let digest = start === 0 ? emptyPrefix : this.#readPrefix(plan, row, start - 1);
    const digests: PrefixDigest[] = [];
    for (let i = first; i < plan.rowStart[row + 1]!; i++) {
      const before = digest;
      digest = extendPrefix(before, this.#tokenAt(plan, row, i));
      digests.push(digest);
      const position = plan.positions[i]!;
      const block = Math.floor(position / this.#options.blockTokens);
      this.#groups.forEach((pages, g) => pages.write(this.#pagesOf(plan, g, row)[block]!, position, before, digest));
    }
    this.#remember(plan.sequenceIds[row]!, start + digests.length - 1, digest);
    return digests;
  }

  /** Every page up to `position` is checked, in every group. */
  #readPrefix(plan: StepPlan, row: number, position: number): PrefixDigest {
    const [digest, ...others] = this.#groups.map((pages, g) => pages.read(this.#pagesOf(plan, g, row), position));
    invariant(digest, 'a model without cache groups');
    const id = plan.sequenceIds[row]!;
    const written = this.#written.get(id);
    const isForeign = written?.position === position && !equalPrefix(written.digest, digest);
    if (isForeign || others.some((other) => !equalPrefix(other, digest))) {
      throw new XllmError(
        'internal_error',
        `sequence ${id} finds another prefix than it wrote before position ${position + 1}`,
      );
    }
    return digest;
  }

  #pagesOf(plan: StepPlan, g: number, row: number): Int32Array {
    const { pages, pageStart } = plan.groups[g]!;
    return pages.subarray(pageStart[row]!, pageStart[row + 1]!);
  }

  #tokenAt(plan: StepPlan, row: number, index: number): number {
    const token = plan.tokenIds[index]!;
    if (token !== -1) return token;
    const sampled = this.#previousTokenIds[plan.previousOutput[row]!];
    invariant(sampled !== undefined && sampled >= 0, `row ${row} waits for a token that the last step did not sample`);
    return sampled;
  }

  #remember(id: number, position: number, digest: PrefixDigest): void {
    this.#written.delete(id);
    this.#written.set(id, { position, digest });
    if (this.#written.size <= maxRemembered) return;
    const [oldest] = this.#written.keys();
    if (oldest !== undefined) this.#written.delete(oldest);
  }
}
