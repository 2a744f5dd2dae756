// Owns a model's step programs with everything that they read and write besides weights and KV pages.
import { invariant } from '../../common/errors.ts';
import type { PlacedCode } from '../jit/asm/exec-memory.ts';
import type { Isa } from '../jit/cpu-features.ts';
import type { CacheGroup } from '../kv/cache-group.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import type { Model } from '../models/model.ts';
import type { SamplerInput } from '../sampler/sampler-task.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { Activations, type Rows } from './activations.ts';
import { allocateResults, allocateShared } from './buffers.ts';
import { Emitters } from './emitters.ts';
import { KvSteps } from './kv-steps.ts';
import { lowerModel } from './lower.ts';
import { buildPrograms, type ProgramSet } from './program-builder.ts';
import { RopeTables } from './rope-tables.ts';
import { SampleSteps } from './sample-steps.ts';
import { StepInputs } from './step-inputs.ts';
import { freeLane, type LaneInputs, type StepLane, writeStep } from './step-lane.ts';
import { orderStep, type StepOrder, samplerInput } from './step-order.ts';
import { type TeamOptions, ThreadTeam } from './thread-team.ts';

export interface ModelProgramOptions {
  readonly model: Model;
  readonly groups: readonly CacheGroup[];
  /** Over the groups. */
  readonly space: KvSpace;
  readonly isa: Isa;
  readonly team: TeamOptions;
  /** Of one step, at most. */
  readonly maxTokens: number;
  readonly maxOutputs: number;
  readonly maxPositions: number;
}

/** A step that was written to its lane. */
export interface PreparedStep {
  readonly lane: StepLane;
  readonly order: StepOrder;
  /** Of the sampler, slot by slot. */
  readonly asked: SamplerInput;
}

/**
 * Two lanes take turns, so that one step can be written, and queued, while the other runs, and results outlive the step
 * after theirs. Activations are shared: only one step runs at a time.
 */
export class ModelProgram {
  readonly maxOutputs: number;
  readonly lanes: readonly StepLane[];
  /** All emitted code, for profilers. */
  readonly kernels: readonly PlacedCode[];
  readonly #activations = new Activations();
  readonly #ropes: RopeTables;
  readonly #programs: ProgramSet;
  readonly #team: ThreadTeam;
  #numPrepared = 0;
  /** Of the step prepared last. */
  #order: StepOrder | null = null;

  /** Throws SystemError when the system refuses memory. */
  constructor({ model, groups, space, isa, team, maxTokens, maxOutputs, maxPositions }: ModelProgramOptions) {
    const { numThreads } = team;
    this.#team = new ThreadTeam(team);
    const { config, weights } = model;
    this.maxOutputs = maxOutputs;
    this.#ropes = new RopeTables(config, maxPositions);
    const activations = this.#activations;
    const shared = allocateShared(activations, config, maxTokens, maxOutputs);
    const lanes = [0, 1].map(
      (): LaneInputs => ({
        inputs: new StepInputs(maxTokens, maxOutputs),
        kv: new KvSteps(config, groups, space, numThreads),
        samples: new SampleSteps(config.vocabSize, config.numIds, numThreads),
        results: allocateResults(activations, config, maxOutputs),
      }),
    );
    const productInputs = new Map<string, Rows>();
    const lists = lanes.map(({ inputs, kv, samples, results }, lane) => {
      const buffers = { ...shared, ...results };
      const previousResults = lanes[1 - lane]?.results.results;
      invariant(previousResults, 'two lanes take turns');
      const common = { config, isa, maxTokens, activations, productInputs, ropes: this.#ropes };
      const emitters = new Emitters({ ...common, buffers, previousResults, inputs, kv, samples });
      return lowerModel(config, weights, emitters, buffers);
    });
    this.#programs = buildPrograms(lists);
    this.kernels = [...this.#programs.kernels, ...this.#team.kernels];
    this.lanes = lanes.map((lane, i) => {
      const program = this.#programs.programs[i];
      invariant(program, 'a program for each lane');
      return { ...lane, program };
    });
  }

  /** Writes the plan as the next step; the running one does not notice. Its pages must have memory. */
  prepare(plan: StepPlan): PreparedStep {
    const lane = this.lanes[this.#numPrepared++ % 2];
    invariant(lane, 'two lanes take turns');
    const order = orderStep(plan);
    lane.program.reset();
    const asked = samplerInput(plan, order);
    writeStep(lane, plan, order, asked, this.#order, this.#team.nextGeneration);
    this.#ropes.ensure(plan);
    this.#order = order;
    return { lane, order, asked };
  }

  /** Runs the step prepared last, now or when the running one ends. */
  run({ lane }: PreparedStep): Promise<void> {
    return this.#team.run(lane.program.address);
  }

  /** No step may be running, and none may follow. */
  free(): void {
    this.#team.close();
    this.#programs.free();
    for (const lane of this.lanes) freeLane(lane);
    for (const part of [this.#ropes, this.#activations]) part.free();
  }
}
