// Owns driving an executor by hand in tests: sequences fed in chunks and batches of the test's choosing, logits kept.
import { openWeights } from '../../../files/open-weights.ts';
import { openGgml } from '../../ffi/ggml.ts';
import type { CacheGroup } from '../../kv/cache-group.ts';
import type { KvSpace } from '../../kv/spaces/kv-space.ts';
import { cacheGroups } from '../../models/config.ts';
import { loadModel, type Model } from '../../models/model.ts';
import { outputKind, type StepOutput, type StepPlan } from '../../scheduler/plan.ts';
import type { SampleRow } from '../../scheduler/sampling-params.ts';
import type { WeightCacheOptions } from '../../weights/cache/cached-weights.ts';
import type { DTypePolicy } from '../../weights/dtype-policy.ts';
import { readModelConfig } from '../../models/registry.ts';
import { packingFor, programObstacle } from '../../program/packing.ts';
import { createExecutor, type LocalExecutor } from '../create-executor.ts';
import { chooseKvElement, type KvCacheDtype } from '../kv-cache-dtype.ts';
import { chooseKernels, type KernelChoice, type Kernels } from '../kernel-choice.ts';
import { createPoolSpace } from './pool-space.ts';

export interface RunnerOptions {
  readonly dtype?: DTypePolicy;
  readonly kernels?: Kernels;
  readonly deterministic?: boolean;
  readonly kvCacheDtype?: KvCacheDtype;
  readonly numThreads?: number;
  readonly numPages?: number;
  /** Of one step. Default 1,024. */
  readonly maxTokens?: number;
  readonly cache?: WeightCacheOptions;
  /** False: `step` gives no logits; for measurements. */
  readonly keepLogits?: boolean;
}

/** Some tokens of one sequence. */
export interface Feed {
  /** -1: the token that the previous step sampled for output `previousOutput`. */
  readonly ids: readonly number[];
  /** Position of the first. */
  readonly position: number;
  /** Tokens of the feed that need logits. Default: the last. */
  readonly outputs?: readonly number[];
  readonly previousOutput?: number;
  /** A value of `outputKind` for all its outputs. Default: sample. */
  readonly kind?: number;
  /** [outputs] for kind promptLogprobs. */
  readonly targets?: readonly number[];
  /** Which of the runner's page lists holds the sequence. */
  readonly slot: number;
  readonly sampling?: Partial<SampleRow>;
}

const greedy: SampleRow = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 0n,
  position: 0,
  edits: null,
  numLogprobs: -1,
};

export class ModelRunner {
  readonly model: Model;
  readonly executor: LocalExecutor;
  readonly #space: KvSpace;
  readonly #numPages: number;
  #logits: Float32Array = new Float32Array(0);
  #stepId = 0;

  private constructor(
    model: Model,
    groups: readonly CacheGroup[],
    space: KvSpace,
    choice: KernelChoice,
    options: RunnerOptions,
    numPages: number,
  ) {
    this.model = model;
    this.#space = space;
    this.#numPages = numPages;
    this.executor = createExecutor({
      ggml: openGgml(),
      model,
      groups,
      space,
      choice,
      deterministic: options.deterministic ?? false,
      numThreads: options.numThreads ?? 1,
      polls: false,
      maxTokens: options.maxTokens ?? 1024,
      maxOutputs: options.maxTokens ?? 1024,
      maxPositions: model.config.maxPositions,
      ...(options.keepLogits === false
        ? {}
        : { observe: (_: StepPlan, logits: Float32Array) => void (this.#logits = logits.slice()) }),
    });
  }

  static async open(path: string, options: RunnerOptions = {}): Promise<ModelRunner> {
    const file = await openWeights(path);
    try {
      const { dtype = 'auto', cache = null } = options;
      const config = await readModelConfig(file);
      const choice = chooseKernels(options.kernels ?? 'auto', programObstacle(config, file, dtype));
      const packing = packingFor(choice.kernels);
      const model = await loadModel(openGgml(), file, { config, dtype, packing, cache });
      const numPages = options.numPages ?? 256;
      const element = chooseKvElement(options.kvCacheDtype ?? 'auto', dtype, choice);
      const groups = cacheGroups(model.config, element);
      const space = createPoolSpace(groups, numPages);
      return new ModelRunner(model, groups, space, choice, options, numPages);
    } finally {
      file.close();
    }
  }

  /** One step over all feeds. logits: one row per output, in order of feeds and their outputs. */
  async step(feeds: readonly Feed[]): Promise<{ output: StepOutput; logits: Float32Array[] }> {
    const plan = this.plan(feeds);
    await this.executor.prepare(plan);
    const output = await this.executor.run(plan);
    const { vocabSize } = this.model.config;
    const logits = Array.from(plan.outputToken, (_, i) => this.#logits.slice(i * vocabSize, (i + 1) * vocabSize));
    return { output, logits };
  }

  plan(feeds: readonly Feed[]): StepPlan {
    const numTokens = feeds.reduce((sum, { ids }) => sum + ids.length, 0);
    const rowStart = startsOf(feeds.map(({ ids }) => ids.length));
    const outputs = feeds.flatMap((feed, row) =>
      (feed.outputs ?? [feed.ids.length - 1]).map((token, i) => ({
        row,
        token: rowStart[row]! + token,
        kind: feed.kind ?? outputKind.sample,
        target: feed.targets?.[i] ?? -1,
      })),
    );
    return {
      stepId: ++this.#stepId,
      numTokens,
      numRows: feeds.length,
      tokenIds: Int32Array.from(feeds.flatMap(({ ids }) => ids)),
      positions: Int32Array.from(feeds.flatMap(({ ids, position }) => ids.map((_, i) => position + i))),
      rowStart,
      sequenceIds: feeds.map(({ slot }) => slot),
      previousOutput: Int32Array.from(feeds, (feed) => feed.previousOutput ?? -1),
      adapterSlot: new Int32Array(feeds.length),
      outputToken: Int32Array.from(outputs, ({ token }) => token),
      outputRow: Int32Array.from(outputs, ({ row }) => row),
      outputKinds: Uint8Array.from(outputs, ({ kind }) => kind),
      targetIds: Int32Array.from(outputs, ({ target }) => target),
      sampling: outputs.map(({ row }) => ({ ...greedy, ...feeds[row]?.sampling })),
      groups: this.#space.layouts.map(({ blockTokens }) => this.#tables(feeds, blockTokens)),
    };
  }

  /** Pages are dealt to slots in turn, so that no sequence's are neighbours where there are several. */
  #tables(feeds: readonly Feed[], blockTokens: number): StepPlan['groups'][number] {
    const numSlots = Math.max(...feeds.map(({ slot }) => slot), 7) + 1;
    const lists = feeds.map(({ slot, position, ids }) =>
      Array.from({ length: Math.ceil((position + ids.length) / blockTokens) }, (_, block) => block * numSlots + slot),
    );
    const last = Math.max(...lists.flat());
    if (last >= this.#numPages) throw new Error(`the test needs ${last + 1} pages`);
    return {
      pageStart: startsOf(lists.map((list) => list.length)),
      pages: Int32Array.from(lists.flat()),
      rangeSlot: new Int32Array(feeds.length).fill(-1),
      mapOps: new Int32Array(0),
      numPagesTouched: last + 1,
    };
  }

  /** Prefill, then `count` greedy tokens, one sequence alone. logits: of the prompt's last token, then of each step. */
  async greedy(prompt: readonly number[], count: number): Promise<{ ids: number[]; logits: Float32Array[] }> {
    const ids: number[] = [];
    const logits: Float32Array[] = [];
    let feed: Feed = { ids: prompt, position: 0, slot: 0 };
    while (ids.length < count) {
      const step = await this.step([feed]);
      ids.push(step.output.tokenIds[0]!);
      logits.push(step.logits[0]!);
      feed = { ids: [-1], previousOutput: 0, position: prompt.length + ids.length - 1, slot: 0 };
    }
    return { ids, logits };
  }

  async close(): Promise<void> {
    await this.executor.close();
    this.#space.close();
    this.model.close();
  }
}

function startsOf(lengths: readonly number[]): Int32Array {
  const starts = new Int32Array(lengths.length + 1);
  for (const [i, length] of lengths.entries()) starts[i + 1] = starts[i]! + length;
  return starts;
}
