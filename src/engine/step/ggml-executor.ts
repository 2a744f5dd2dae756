// Owns running step plans by ggml alone, where no code can be emitted: graphs per shape, sampling in TypeScript.
import { invariant } from '../../common/errors.ts';
import type { Ggml } from '../ffi/ggml.ts';
import { allocateNative, type NativeMemory } from '../ffi/memory.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import type { GraphModel } from '../models/graph-model.ts';
import type { Model } from '../models/model.ts';
import { sampleInTypeScript } from '../sampler/fallback.ts';
import type { StepOutput, StepPlan } from '../scheduler/plan.ts';
import type { ComputePool } from '../tensor/compute.ts';
import { GraphCache } from '../tensor/graph-cache.ts';
import { StagedInputs } from '../tensor/inputs.ts';
import { ThreadGovernor } from '../tensor/thread-governor.ts';
import { roundUpTokens } from './buckets.ts';
import type { Executor } from './executor.ts';
import type { GgmlAttention } from './ggml-attention.ts';
import type { KernelChoice } from './kernel-choice.ts';
import { checkPlan } from './plan-check.ts';
import { hiddenOf } from './program-executor.ts';
import { layoutStep, shapeKey, StepGraph, type StepSections, type StepShape } from './step-graph.ts';

export interface GgmlExecutorOptions {
  readonly ggml: Ggml;
  readonly model: Model;
  readonly space: KvSpace;
  readonly graphModel: GraphModel;
  readonly attention: GgmlAttention;
  readonly pool: ComputePool;
  readonly choice: KernelChoice;
  readonly numericsId: string;
  /**
   * A sequence's results do not depend on what else is in the batch: products of float weights never have one row.
   * What else it takes is the attention path's.
   */
  readonly deterministic: boolean;
  /** Sees each step's raw logits [O,V], valid during the call: for tests that compare them. */
  readonly observe?: (plan: StepPlan, logits: Float32Array) => void;
}

interface PreparedStep {
  readonly shape: StepShape;
  readonly key: string;
  readonly sections: StepSections;
  readonly staged: StagedInputs;
}

/** Graphs are a megabyte or so each; steps of a serving mix come back to a few dozen shapes. */
const maxGraphs = 64;

export class GgmlExecutor implements Executor {
  readonly #options: GgmlExecutorOptions;
  readonly #governor: ThreadGovernor;
  readonly #blockTokens: readonly number[];
  readonly #graphs = new GraphCache<StepGraph>(maxGraphs);
  readonly #prepared = new Map<number, PreparedStep>();
  /** One for the step being prepared, one for a step prepared but not started. */
  readonly #staged = [new StagedInputs(), new StagedInputs()];
  #arena: NativeMemory | null = null;
  /** Tokens sampled by the previous run. */
  /** Settles when the step that was asked for last has ended. */
  #last: Promise<unknown> = Promise.resolve();
  #previousTokens: Int32Array = new Int32Array(0);

  constructor(options: GgmlExecutorOptions) {
    this.#options = options;
    this.#blockTokens = options.space.layouts.map(({ blockTokens }) => blockTokens);
    this.#governor = new ThreadGovernor(options.pool.maxThreads);
  }

  /** Which kernels run, and why. */
  get choice(): KernelChoice {
    return this.#options.choice;
  }

  /** Executors of equal id compute the same bits from equal weights. */
  get numericsId(): string {
    return this.#options.numericsId;
  }

  async prepare(plan: StepPlan): Promise<void> {
    const { model, space, attention } = this.#options;
    checkPlan(plan, model.config.vocabSize, this.#blockTokens);
    await space.prepare(plan.groups);
    const shape = this.#shapeOf(plan, attention);
    const sections = layoutStep(shape);
    const staged = this.#staged.reverse()[0]!;
    staged.reset(sections.numBytes);
    const { numTokens, outputToken } = plan;
    const tokenIds = staged.int32(sections.tokenIds);
    tokenIds.set(plan.tokenIds);
    tokenIds.fill(plan.tokenIds[numTokens - 1]!, numTokens);
    const positions = staged.int32(sections.positions);
    positions.set(plan.positions);
    positions.fill(plan.positions[numTokens - 1]!, numTokens);
    const outputs = staged.int32(sections.outputTokens);
    outputs.fill(outputToken.length > 0 ? outputToken[outputToken.length - 1]! : 0);
    outputs.set(outputToken);
    shape.attention.fill(staged);
    this.#prepared.set(plan.stepId, { shape, key: shapeKey(shape), sections, staged });
  }

  #shapeOf(plan: StepPlan, attention: GgmlAttention): StepShape {
    const { model, deterministic } = this.#options;
    const fewest = deterministic && model.differsAlone ? 2 : 1;
    const numTokens = Math.max(fewest, roundUpTokens(plan.numTokens));
    const numOutputs = plan.outputToken.length;
    const outputsAreTokens = numOutputs === plan.numTokens && plan.outputToken.every((token, i) => token === i);
    return {
      numTokens,
      numOutputs: outputsAreTokens ? numTokens : numOutputs && Math.max(fewest, roundUpTokens(numOutputs)),
      outputsAreTokens,
      attention: attention.shapeOf(plan, numTokens),
    };
  }

  run(plan: StepPlan): Promise<StepOutput> {
    const result = this.#last.then(() => this.#run(plan));
    // Who waits for the step hears of its failure; the one after it finds out by itself.
    this.#last = result.catch(() => {});
    return result;
  }

  async #run(plan: StepPlan): Promise<StepOutput> {
    const prepared = this.#prepared.get(plan.stepId);
    invariant(prepared, `step ${plan.stepId} was not prepared`);
    this.#prepared.delete(plan.stepId);
    const startMs = performance.now();
    const cached = this.#graphs.get(prepared.key);
    const graph = cached ?? this.#build(prepared);
    graph.place(this.#arenaFor(graph.placed.numBytes));
    this.#fillPlaceholders(plan, prepared);
    prepared.staged.copyTo(graph.inputs);
    const { pool, model } = this.#options;
    const numThreads = this.#governor.choose(prepared.key);
    const computeStartMs = performance.now();
    await pool.run(graph.placed.graph.handle, graph.workBytes, numThreads);
    this.#governor.observe(prepared.key, numThreads, performance.now() - computeStartMs);
    const { hidden, logits } = graph.results();
    this.#options.observe?.(plan, logits);
    const { vocabSize, numIds, hiddenSize } = model.config;
    const { tokenIds, logprobs, topLogprobs } = sampleInTypeScript(plan, logits, vocabSize, numIds);
    this.#previousTokens = tokenIds;
    return {
      stepId: plan.stepId,
      tokenIds,
      logprobs,
      topLogprobs,
      ...hiddenOf(plan, hidden, hiddenSize, (output) => output),
      graphMode: cached ? 'partial' : 'eager',
      computeMs: performance.now() - startMs,
    };
  }

  #build({ key, shape }: PreparedStep): StepGraph {
    const { ggml, graphModel, pool } = this.#options;
    const graph = new StepGraph(ggml, graphModel, shape, (built) => pool.workBytes(built.handle));
    this.#graphs.set(key, graph);
    return graph;
  }

  /** Grows between steps only; graphs follow when they run next. */
  #arenaFor(numBytes: number): number {
    if (!this.#arena || this.#arena.numBytes < numBytes) {
      this.#arena?.free();
      this.#arena = allocateNative(numBytes);
    }
    return this.#arena.address;
  }

  #fillPlaceholders(plan: StepPlan, { staged, sections }: PreparedStep): void {
    const tokenIds = staged.int32(sections.tokenIds);
    for (let row = 0; row < plan.numRows; row++) {
      const from = plan.previousOutput[row]!;
      if (from < 0) continue;
      const token = this.#previousTokens[from];
      invariant(token !== undefined && token >= 0, `row ${row} waits for output ${from}, which sampled nothing`);
      tokenIds[plan.rowStart[row]!] = token;
    }
    tokenIds.fill(tokenIds[plan.numTokens - 1]!, plan.numTokens);
  }

  close(): Promise<void> {
    this.#graphs.clear();
    this.#arena?.free();
    this.#options.pool.close();
    this.#options.graphModel.free();
    return Promise.resolve();
  }
}
