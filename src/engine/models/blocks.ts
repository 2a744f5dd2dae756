// Owns the decoder that all architectures are variants of: what a layer computes, given its weights.
// Legend: T tokens, O output tokens, D hidden size, H heads, G key/value heads, K head dim, F feed-forward size, V vocabulary.
import type { Graph } from '../tensor/graph.ts';
import { add, columns, gated, getRows, multiply, type Rope, rmsNorm, rope, scale, splitHeads } from '../tensor/ops.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { ModelConfig } from './config.ts';
import type { GraphModel } from './graph-model.ts';
import type { LayerWeights, Linear, ModelWeights, Stacked } from './weights.ts';

export interface StepInputs {
  /** I32 [T] */
  readonly tokenIds: Tensor;
  /** I32 [T] */
  readonly positions: Tensor;
  /** I32 [O]: tokens that need an output; null: all of them, in order. */
  readonly outputTokens: Tensor | null;
}

/** Writes the step's keys and values to the cache and attends to all that each token may see. */
export interface Attention {
  /** q [T,H,K], k [T,G,K] and v [T,G,K] (rows may lie apart) → [T,H*K] */
  attend(g: Graph, layer: number, q: Tensor, k: Tensor, v: Tensor): Tensor;
}

/** → hidden states of the output tokens after the final norm, [O,D]. `observe` sees each layer's input: tests. */
export function forward(
  g: Graph,
  { config, weights, ropes }: GraphModel,
  inputs: StepInputs,
  attention: Attention,
  observe: (x: Tensor, layer: number) => void = () => {},
): Tensor {
  let x = getRows(g, weights.embedding, inputs.tokenIds); // [T,D]
  if (config.embeddingScale !== 1) x = scale(g, x, config.embeddingScale);
  for (const [index, layer] of weights.layers.entries()) {
    observe(x, index);
    let mixed = attentionHalf(g, config, layer, ropes[index]!, index, x, inputs.positions, attention); // [T,H*K]
    // What follows the last attention is needed for output tokens only.
    if (index === weights.layers.length - 1 && inputs.outputTokens) {
      mixed = getRows(g, mixed, inputs.outputTokens); // [O,H*K]
      x = getRows(g, x, inputs.outputTokens); // [O,D]
    }
    x = add(g, x, postNorm(g, config, linear(g, mixed, layer.attnOutput), layer.attnPostNorm));
    x = add(g, x, postNorm(g, config, feedForward(g, config, layer, x), layer.ffnPostNorm));
  }
  return rmsNorm(g, x, weights.outputNorm, config.normEps);
}

/** hidden [O,D] → logits [O,V] */
export function head(g: Graph, weights: ModelWeights<Tensor>, hidden: Tensor): Tensor {
  return linear(g, hidden, weights.head);
}

function attentionHalf(
  g: Graph,
  config: ModelConfig,
  layer: LayerWeights<Tensor>,
  ropeOf: Rope,
  index: number,
  x: Tensor,
  positions: Tensor,
  attention: Attention,
): Tensor {
  const { numHeads: H, numKvHeads: G, headDim: K, normEps } = config;
  const normed = rmsNorm(g, x, layer.attnNorm, normEps);
  const [q, k, v] = project(g, normed, layer.qkv, [H * K, G * K, G * K]) as [Tensor, Tensor, Tensor];
  const heads = (flat: Tensor, count: number, norm: Tensor | null): Tensor => {
    const split = splitHeads(g, flat, count); // [T,count,K]
    return rope(g, norm ? rmsNorm(g, split, norm, normEps) : split, positions, ropeOf);
  };
  return attention.attend(g, index, heads(q, H, layer.qNorm), heads(k, G, layer.kNorm), splitHeads(g, v, G));
}

function feedForward(g: Graph, config: ModelConfig, layer: LayerWeights<Tensor>, x: Tensor): Tensor {
  const normed = rmsNorm(g, x, layer.ffnNorm, config.normEps);
  const products = layer.gateUp.map((part) => linear(g, normed, part));
  const [gate, up] = products as [Tensor, Tensor | undefined]; // [T,2F], or [T,F] each
  return linear(g, gated(g, config.activation, gate, up ?? null), layer.down);
}

/** x [T,D] · weightᵀ + bias → [T,N] */
function linear(g: Graph, x: Tensor, { weight, bias }: Linear<Tensor>): Tensor {
  const product = multiply(g, x, weight);
  return bias ? add(g, product, bias) : product;
}

/** x [T,D] → one [T,width] each; views where the matrices are stacked. */
function project(g: Graph, x: Tensor, stacked: Stacked<Tensor>, widths: readonly number[]): Tensor[] {
  const products = stacked.map((part) => linear(g, x, part));
  const [only] = products;
  if (products.length > 1 || !only) return products;
  let from = 0;
  return widths.map((width) => {
    from += width;
    return columns(g, only, from - width, width);
  });
}

function postNorm(g: Graph, config: ModelConfig, x: Tensor, norm: Tensor | null): Tensor {
  return norm ? rmsNorm(g, x, norm, config.normEps) : x;
}
