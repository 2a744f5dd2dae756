// Owns a model's step program with everything that it reads and writes besides weights and KV pages.
import type { Isa } from '../jit/cpu-features.ts';
import type { CacheGroup } from '../kv/cache-group.ts';
import type { KvSpace } from '../kv/spaces/kv-space.ts';
import type { Model } from '../models/model.ts';
import type { StepPlan } from '../scheduler/plan.ts';
import { Activations } from './activations.ts';
import { allocateBuffers, type Buffers } from './buffers.ts';
import { Emitters } from './emitters.ts';
import { KvSteps } from './kv-steps.ts';
import { lowerModel } from './lower.ts';
import { buildProgram, type StepProgram } from './program-builder.ts';
import { RopeTables } from './rope-tables.ts';
import { SampleSteps } from './sample-steps.ts';
import { StepInputs } from './step-inputs.ts';
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

export class ModelProgram {
  readonly maxOutputs: number;
  readonly buffers: Buffers;
  readonly program: StepProgram;
  readonly #activations = new Activations();
  readonly #inputs: StepInputs;
  readonly #kv: KvSteps;
  readonly #samples: SampleSteps;
  readonly #ropes: RopeTables;
  readonly #team: ThreadTeam;

  /** Throws SystemError when the system refuses memory. */
  constructor({ model, groups, space, isa, team, maxTokens, maxOutputs, maxPositions }: ModelProgramOptions) {
    const { numThreads } = team;
    this.#team = new ThreadTeam(team);
    const { config, weights } = model;
    this.maxOutputs = maxOutputs;
    this.buffers = allocateBuffers(this.#activations, config, maxTokens, maxOutputs);
    this.#inputs = new StepInputs(maxTokens, maxOutputs);
    this.#kv = new KvSteps(config, groups, space, numThreads);
    this.#samples = new SampleSteps(config.vocabSize, config.numIds, numThreads);
    this.#ropes = new RopeTables(config, maxPositions);
    const emitters = new Emitters({
      config,
      isa,
      maxTokens,
      activations: this.#activations,
      buffers: this.buffers,
      inputs: this.#inputs,
      kv: this.#kv,
      samples: this.#samples,
      ropes: this.#ropes,
    });
    this.program = buildProgram(lowerModel(config, weights, emitters, this.buffers));
  }

  /** Makes the plan the next step's; the running one does not notice. Its pages must have memory. Results stand in slots. */
  stage(plan: StepPlan): StepOrder {
    const order = orderStep(plan);
    this.#inputs.stage(plan, order);
    this.#kv.stage(plan, order);
    this.#samples.stage(samplerInput(plan, order));
    this.#ropes.ensure(plan);
    return order;
  }

  /** Runs what was staged. No step may be running. */
  async run(): Promise<void> {
    this.#publish();
    await this.#team.run(this.program.address);
  }

  #publish(): void {
    this.#inputs.publish();
    this.#kv.publish();
    this.#samples.publish();
    this.program.reset(this.#team.nextGeneration);
  }

  /** No step may be running, and none may follow. */
  free(): void {
    this.#team.close();
    this.program.free();
    for (const part of [this.#inputs, this.#kv, this.#samples, this.#ropes, this.#activations]) part.free();
  }
}
