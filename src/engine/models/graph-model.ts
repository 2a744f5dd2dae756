// Owns a model as graphs see it: its weights as tensors, its rope parameters beside them.
import { type Ggml, TensorSpace } from '../tensor/graph.ts';
import type { Rope } from '../tensor/ops.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { ModelConfig, RopeConfig } from './config.ts';
import type { Model } from './model.ts';
import { ropeFactors } from './rope-scaling.ts';
import { mapWeights, type ModelWeights } from './weights.ts';

export interface GraphModel {
  readonly config: ModelConfig;
  readonly weights: ModelWeights<Tensor>;
  /** By layer. */
  readonly ropes: readonly Rope[];
  /** No graph that uses the model may run afterwards. */
  free(): void;
}

/** Norms, three products and biases of a layer, at most. */
const tensorsPerLayer = 24;

/** The model's matrices must lie as in the file. It must outlive the result. */
export function createGraphModel(ggml: Ggml, model: Model): GraphModel {
  const { layers } = model.config;
  const ropes = [...new Set(layers.map((layer) => layer.rope))];
  const space = new TensorSpace(ggml, 8 + layers.length * tensorsPerLayer + ropes.length);
  const tensors = new Map<unknown, Tensor>();
  const weights = mapWeights(model.weights, (weight) => {
    const { type, shape, address } = weight;
    const tensor = tensors.get(weight) ?? space.leaf(type, shape, address);
    tensors.set(weight, tensor);
    return tensor;
  });
  const ropeOf = new Map(ropes.map((rope) => [rope, placeRope(space, model.config, rope)]));
  return {
    config: withPrecision(model),
    weights,
    ropes: layers.map(({ rope }) => ropeOf.get(rope)).filter((rope) => rope !== undefined),
    free: () => space.free(),
  };
}

/** Under float32 nothing is looked up in tables of 16-bit floats. */
function withPrecision({ config, dtype }: Model): ModelConfig {
  const isCoarse = config.activation === 'gelu_tanh' && dtype === 'float32';
  return isCoarse ? { ...config, activation: 'gelu_tanh_f32' } : config;
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
