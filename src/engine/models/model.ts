// Owns a loaded model: its description, and its weights in memory.
import { invariant } from '../../common/errors.ts';
import type { WeightsFile } from '../../files/weights-file.ts';
import { differsAlone, type TensorType } from '../tensor/dtype.ts';
import type { Ggml } from '../tensor/graph.ts';
import type { PackingOf } from '../tensor/packing.ts';
import type { DTypePolicy } from '../weights/dtype-policy.ts';
import {
  type LoadedWeights,
  type LoadWeightsOptions,
  loadWeights,
  type Weight,
  type WeightPreparation,
} from '../weights/weight-loader.ts';
import type { ModelConfig } from './config.ts';
import { LoadPlan, planWeights } from './load-plan.ts';
import { mapWeights, type ModelWeights } from './weights.ts';

export interface LoadOptions extends LoadWeightsOptions {
  readonly config: ModelConfig;
  readonly dtype: DTypePolicy;
  /** How matrices are laid out; `asInFile` for ggml. */
  readonly packing: PackingOf;
}

/** A weight of a model. */
export interface ModelWeight extends Weight {
  /** Two matrices in turn, for products that end with act(gate) * up. */
  readonly isGated: boolean;
}

export class Model {
  readonly config: ModelConfig;
  readonly weights: ModelWeights<ModelWeight>;
  readonly dtype: DTypePolicy;
  /** Formats of the matrices, sorted: part of what decides the bits of the results. */
  readonly weightTypes: readonly TensorType[];
  readonly numBytes: number;
  readonly preparation: WeightPreparation;
  readonly #loaded: LoadedWeights;

  constructor(
    config: ModelConfig,
    dtype: DTypePolicy,
    weights: ModelWeights<ModelWeight>,
    weightTypes: readonly TensorType[],
    loaded: LoadedWeights,
  ) {
    this.config = config;
    this.dtype = dtype;
    this.weights = weights;
    this.weightTypes = weightTypes;
    this.numBytes = loaded.numBytes;
    this.preparation = loaded.preparation;
    this.#loaded = loaded;
  }

  /** Whether ggml's products with a lone row differ from the same row among several. */
  get differsAlone(): boolean {
    return this.weightTypes.some(differsAlone);
  }

  /** No step that uses the weights may run afterwards. */
  close(): void {
    this.#loaded.free();
  }
}

/**
 * Reads all weights; the file may be closed afterwards. Throws XllmError model_unsupported,
 * model_file_invalid (a tensor is missing or has another shape than the config says) or out_of_memory.
 */
export async function loadModel(ggml: Ggml, file: WeightsFile, options: LoadOptions): Promise<Model> {
  const { config, dtype, packing } = options;
  const plan = new LoadPlan(file, config, dtype, packing);
  const requests = planWeights(plan);
  const loaded = await loadWeights(ggml, file, plan.requests, options);
  const { weights } = loaded;
  const modelWeights = weights.map(
    (weight, i): ModelWeight => ({
      ...weight,
      isGated: plan.requests[i]?.packing?.spec.isGated ?? false,
    }),
  );
  const matrixTypes = weights.filter(({ shape }) => shape.length > 1).map(({ type }) => type);
  const built = mapWeights(requests, (index) => {
    const weight = modelWeights[index];
    invariant(weight, `weight ${index} was not requested`);
    return weight;
  });
  return new Model(config, dtype, built, [...new Set(matrixTypes)].sort(), loaded);
}
