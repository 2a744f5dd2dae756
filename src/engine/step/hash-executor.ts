// Owns an executor without a model, for tests and simulation: tokens are hashes of what the KV pages really hold.
import { invariant, XllmError } from '../../common/errors.ts';
import { type CacheGroup, firstReadPosition } from '../kv/cache-group.ts';
import type { StepOutput, StepPlan } from '../scheduler/plan.ts';
import type { Executor } from './executor.ts';
import { mix, sampleHashes } from './hash-sampling.ts';

export interface HashExecutorOptions {
  readonly groups: readonly CacheGroup[];
  /** [G] */
  readonly numPages: readonly number[];
  readonly blockTokens: number;
  readonly vocabSize: number;
}

/** One group's memory: what each token of each page was written with. */
interface GroupPages {
  /** [pages, blockTokens] -1: never written. */
  readonly positions: Int32Array;
  readonly values: Int32Array;
  /** Page by `slot * maxBlocks + block`, as the plans' mapOps left it. */
  readonly ranges: Map<number, number>;
}

/** Blocks per range in the keys of `ranges`; larger than any table. */
const maxBlocks = 1 << 20;

/**
 * Stands in for attention: each group's value at a position mixes the token with what the group before it reads there,
 * so a stale, foreign or missing page changes every later token, and a page of another position throws.
 */
export class HashExecutor implements Executor {
  readonly #options: HashExecutorOptions;
  readonly #memory: readonly GroupPages[];
  #previousTokenIds: Int32Array = new Int32Array(0);
  #isRunning = false;

  constructor(options: HashExecutorOptions) {
    this.#options = options;
    this.#memory = options.numPages.map((numPages) => ({
      positions: new Int32Array(numPages * options.blockTokens).fill(-1),
      values: new Int32Array(numPages * options.blockTokens),
      ranges: new Map(),
    }));
  }

  async prepare(plan: StepPlan): Promise<void> {
    plan.groups.forEach(({ mapOps }, g) => {
      const { ranges } = this.#memory[g]!;
      for (let i = 0; i < mapOps.length; i += 3) ranges.set(mapOps[i]! * maxBlocks + mapOps[i + 1]!, mapOps[i + 2]!);
    });
    await Promise.resolve();
  }

  async run(plan: StepPlan): Promise<StepOutput> {
    invariant(!this.#isRunning, 'two steps run at once');
    this.#isRunning = true;
    const tokenIds = this.#resolveTokens(plan);
    for (let row = 0; row < plan.numRows; row++) this.#writeRow(plan, tokenIds, row);
    const contexts = this.#readOutputs(plan);
    // The caller plans and prepares the next step now, and must not touch what this one reads.
    await Promise.resolve();
    const again = this.#readOutputs(plan);
    invariant(
      contexts.every((context, i) => context === again[i]),
      `memory changed under step ${plan.stepId}`,
    );
    this.#isRunning = false;
    const output = sampleHashes(plan, contexts, this.#options.vocabSize);
    this.#previousTokenIds = output.tokenIds;
    return output;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #resolveTokens(plan: StepPlan): Int32Array {
    const tokenIds = plan.tokenIds.slice();
    for (let row = 0; row < plan.numRows; row++) {
      const first = plan.rowStart[row]!;
      if (tokenIds[first] !== -1) continue;
      const token = this.#previousTokenIds[plan.previousOutput[row]!];
      invariant(token !== undefined && token >= 0, `row ${row} waits for a token that the last step did not sample`);
      tokenIds[first] = token;
    }
    invariant(!tokenIds.includes(-1), 'a placeholder is not the first of its row');
    return tokenIds;
  }

  #writeRow(plan: StepPlan, tokenIds: Int32Array, row: number): void {
    for (let i = plan.rowStart[row]!; i < plan.rowStart[row + 1]!; i++) {
      const position = plan.positions[i]!;
      let value = mix(tokenIds[i]!, 1);
      for (let g = 0; g < this.#memory.length; g++) {
        const { positions, values } = this.#memory[g]!;
        const at = this.#locate(plan, g, row, position);
        positions[at] = position;
        values[at] = value;
        if (g + 1 < this.#memory.length) value = mix(value, this.#read(plan, g, row, position));
      }
    }
  }

  /** [O] what each output token's context hashes to. */
  #readOutputs(plan: StepPlan): number[] {
    return Array.from(plan.outputToken, (token, i) => {
      const row = plan.outputRow[i]!;
      return this.#memory.reduce((hash, _, g) => mix(hash, this.#read(plan, g, row, plan.positions[token]!)), 7);
    });
  }

  /** Hash of all values that the token at `position` attends to in a group. */
  #read(plan: StepPlan, g: number, row: number, position: number): number {
    const { positions, values } = this.#memory[g]!;
    let hash = g;
    for (let p = firstReadPosition(this.#options.groups[g]!.kind, position); p <= position; p++) {
      const at = this.#locate(plan, g, row, p);
      if (positions[at] !== p) {
        throw new XllmError('internal_error', `position ${p} is read where position ${positions[at]} was written`);
      }
      hash = mix(hash, values[at]!);
    }
    return hash;
  }

  /** Index of a token's place in the group's memory, through the row's range if it has one. */
  #locate(plan: StepPlan, g: number, row: number, position: number): number {
    const { blockTokens, numPages } = this.#options;
    const table = plan.groups[g]!;
    const block = Math.floor(position / blockTokens);
    const index = table.pageStart[row]! + block;
    invariant(index < table.pageStart[row + 1]!, `block ${block} of row ${row} is not in its table`);
    const page = table.pages[index]!;
    invariant(page >= 0 && page < numPages[g]!, `block ${block} of row ${row} has page ${page}`);
    const slot = table.rangeSlot[row]!;
    if (slot >= 0) {
      const mapped = this.#memory[g]!.ranges.get(slot * maxBlocks + block);
      invariant(mapped === page, `range ${slot} has page ${mapped} at block ${block}, where page ${page} should be`);
    }
    return page * blockTokens + (position % blockTokens);
  }
}
