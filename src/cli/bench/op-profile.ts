// Owns adding up a step program's time stamps by kind of op.
import { invariant } from '../../common/errors.ts';
import { median } from './metrics.ts';
import type { StepProgram } from '../../engine/program/program-builder.ts';

type Ticks = Map<string, number>;

export class OpProfile {
  readonly #labels: readonly string[];
  readonly #stamps: ReadonlyMap<StepProgram, BigUint64Array>;
  /** Of steps since the last `endSample`. */
  #sample: Ticks = new Map();
  readonly #samples: Ticks[] = [];
  /** The first and the last time that the counter was seen, and its count then. */
  #first: readonly [ms: number, stamp: bigint] | null = null;
  #last: readonly [ms: number, stamp: bigint] = [0, 0n];

  /** Programs of the same ops that take turns. */
  constructor(programs: readonly StepProgram[]) {
    this.#labels = programs[0]?.labels ?? [];
    this.#stamps = new Map(programs.map((program) => [program, program.stamps()]));
  }

  /** Right after a step of this program. */
  add(program: StepProgram): void {
    const stamps = this.#stamps.get(program);
    invariant(stamps, 'a program that is not profiled');
    for (const [i, label] of this.#labels.entries()) {
      const ticks = Number(stamps[i + 1]! - stamps[i]!);
      this.#sample.set(label, (this.#sample.get(label) ?? 0) + ticks);
    }
    this.#last = [performance.now(), stamps.at(-1) ?? 0n];
    this.#first ??= this.#last;
  }

  /** The steps since the last call are one sample. */
  endSample(): void {
    this.#samples.push(this.#sample);
    this.#sample = new Map();
  }

  /** Op → median over the samples. The counter's rate is found from the clock beside it. */
  medianMs(): Record<string, number> {
    const [firstMs, firstStamp] = this.#first ?? [0, 0n];
    const [lastMs, lastStamp] = this.#last;
    const ticksPerMs = Number(lastStamp - firstStamp) / (lastMs - firstMs);
    return Object.fromEntries(
      [...new Set(this.#labels)].map((label) => {
        return [label, median(this.#samples.map((sample) => sample.get(label) ?? 0)) / ticksPerMs];
      }),
    );
  }
}
