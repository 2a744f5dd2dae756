// Owns a loaded model: its description and its weights in memory, ready to be used in graphs.
import { invariant } from '../../common/errors.ts';
import type { WeightsFile } from '../../files/weights-file.ts';
import type { KvElement } from '../kv/cache-group.ts';
import { differsAlone, type TensorType } from '../tensor/dtype.ts';
import { type Ggml, TensorSpace } from '../tensor/graph.ts';
import type { Rope } from '../tensor/ops.ts';
import { EmittedProducts, PlainMatrix, type ProductKernels } from '../tensor/products.ts';
import type { DTypePolicy } from '../weights/dtype-policy.ts';
import {
  type LoadedWeights,
  type LoadWeightsOptions,
  loadWeights,
  type WeightPreparation,
} from '../weights/weight-loader.ts';
import type { ModelWeights } from './blocks.ts';
import type { ModelConfig, RopeConfig } from './config.ts';
import { LoadPlan, planWeights } from './load-plan.ts';
import { readModelConfig } from './registry.ts';
import { ropeFactors } from './rope-scaling.ts';

export interface LoadOptions extends LoadWeightsOptions {
  readonly dtype: DTypePolicy;
  /** Matrices of packed formats are laid out for these. */
  readonly products: ProductKernels;
}

export class Model {
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  readonly dtype: DTypePolicy;
  /** Formats of the matrices, sorted: part of what decides the bits of the results. */
  readonly weightTypes: readonly TensorType[];
  readonly products: ProductKernels;
  readonly numBytes: number;
  readonly preparation: WeightPreparation;
  readonly #parts: ModelParts;

  constructor(config: ModelConfig, { dtype, products }: LoadOptions, weights: ModelWeights, parts: ModelParts) {
    this.config = config;
    this.dtype = dtype;
    this.products = products;
    this.weights = weights;
    this.weightTypes = parts.weightTypes;
    this.numBytes = parts.loaded.numBytes;
    this.preparation = parts.loaded.preparation;
    this.#parts = parts;
  }

  /** Whether products with a lone row differ from the same row among several. */
  get differsAlone(): boolean {
    return this.weightTypes.some(differsAlone);
  }

  /** What keys and values are kept in. */
  get kvElement(): KvElement {
    return this.dtype === 'float32' ? 'f32' : 'f16';
  }

  /** No graph that uses the weights may run afterwards. */
  close(): void {
    const { space, emitted, loaded } = this.#parts;
    space.free();
    emitted?.free();
    loaded.free();
  }
}

/** What a model's weights stand on. */
interface ModelParts {
  readonly space: TensorSpace;
  readonly emitted: EmittedProducts | null;
  readonly loaded: LoadedWeights;
  readonly weightTypes: readonly TensorType[];
}

/**
 * Reads the description and all weights; the file may be closed afterwards. Throws XllmError model_unsupported,
 * model_file_invalid (a tensor is missing or has another shape than the config says) or out_of_memory.
 */
export async function loadModel(ggml: Ggml, file: WeightsFile, options: LoadOptions): Promise<Model> {
  const config = withPrecision(await readModelConfig(file), options.dtype);
  const emitted = options.products === 'ggml' ? null : new EmittedProducts(options.products);
  try {
    return await loadWith(ggml, file, options, config, emitted);
  } catch (error) {
    emitted?.free();
    throw error;
  }
}

/** Under float32 nothing is looked up in tables of 16-bit floats. */
function withPrecision(config: ModelConfig, dtype: DTypePolicy): ModelConfig {
  const isCoarse = config.activation === 'gelu_tanh' && dtype === 'float32';
  return isCoarse ? { ...config, activation: 'gelu_tanh_f32' } : config;
}

async function loadWith(
  ggml: Ggml,
  file: WeightsFile,
  options: LoadOptions,
  config: ModelConfig,
  emitted: EmittedProducts | null,
): Promise<Model> {
  const plan = new LoadPlan(file, config, options.dtype, emitted);
  const build = planWeights(plan);
  const loaded = await loadWeights(ggml, file, plan.requests, options);
  const { weights } = loaded;
  const ropes = [...new Set(config.layers.map((layer) => layer.rope))];
  const space = new TensorSpace(ggml, weights.length + ropes.length);
  const tensors = weights.map(({ type, shape, address }, i) =>
    plan.requests[i]?.packing ? null : space.leaf(type, shape, address),
  );
  const ropeOf = new Map(ropes.map((rope) => [rope, placeRope(space, config, rope)]));
  const built = build({
    tensor(index) {
      const tensor = tensors[index];
      invariant(tensor, `weight ${index} was not requested, or is packed`);
      return tensor;
    },
    matrix(index) {
      const [tensor, weight] = [tensors[index], weights[index]];
      invariant(weight, `weight ${index} was not requested`);
      if (tensor) return new PlainMatrix(tensor);
      invariant(emitted, 'a packed matrix without kernels');
      return emitted.matrix(weight.type, weight.shape as [number, number], weight.address, plan.fine.has(index));
    },
    rope(rope) {
      const placed = ropeOf.get(rope);
      invariant(placed, 'a rope was not placed');
      return placed;
    },
  });
  const matrixTypes = weights.filter(({ shape }) => shape.length > 1).map(({ type }) => type);
  const weightTypes = [...new Set(matrixTypes)].sort();
  return new Model(config, options, built, { space, emitted, loaded, weightTypes });
}

function placeRope(space: TensorSpace, { headDim, ropePairs }: ModelConfig, { base, scaling }: RopeConfig): Rope {
  const { frequencyFactors, attnFactor } = ropeFactors(scaling, base, headDim);
  return {
    pairs: ropePairs,
    base,
    attnFactor,
    frequencyFactors: frequencyFactors && space.constant(frequencyFactors),
  };
}
