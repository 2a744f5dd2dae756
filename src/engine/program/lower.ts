// Owns the translation of a model into the ops of a step program: which kernel works on which buffers, in which order.
// Legend: T tokens, O outputs, D hidden size, H heads, G key/value heads, K head dim, F feed-forward size, V vocabulary.
import type { ModelConfig } from '../models/config.ts';
import type { ModelWeight } from '../models/model.ts';
import type { LayerWeights, Linear, ModelWeights, Stacked } from '../models/weights.ts';
import { columnsOf, type Rows } from './activations.ts';
import type { Buffers } from './buffers.ts';
import type { Emitters, Input, On } from './emitters.ts';
import type { OpSpec } from './program-builder.ts';

/**
 * Ops in order. Per layer: norm → q,k,v → rope → KV write → attention → output product onto the residual → norm →
 * gate, up → activation → down product onto the residual. After the last attention only outputs go on.
 */
export function lowerModel(
  config: ModelConfig,
  weights: ModelWeights<ModelWeight>,
  emit: Emitters,
  buffers: Buffers,
): OpSpec[] {
  const ops: OpSpec[] = [emit.embed(weights.embedding, config.embeddingScale, buffers.residual)];
  for (const [index, layer] of weights.layers.entries()) {
    const isLast = index === weights.layers.length - 1;
    ops.push(...attentionOps(config, layer, index, emit, buffers));
    if (isLast) ops.push(emit.gather());
    const [x, attended, rows] = isLast
      ? ([buffers.outputResidual, buffers.outputAttended, 'outputs'] as const)
      : ([buffers.residual, buffers.attended, 'tokens'] as const);
    const on = { layer: index, rows };
    const quantised = emit.quantise(attended, layer.attnOutput.weight, on);
    ops.push(
      ...quantised.ops,
      ...residualOps(layer.attnOutput, quantised.inputs, layer.attnPostNorm, x, on, emit, buffers),
    );
    ops.push(...feedForwardOps(config, layer, x, on, emit, buffers));
  }
  const on = { layer: config.layers.length, rows: 'outputs' } as const;
  const final = emit.finalNorm(buffers.outputResidual, weights.outputNorm, buffers.hidden, weights.head.weight);
  const head = emit.product(weights.head, final.inputs, buffers.logits, 'store', 'head', on);
  ops.push(...final.ops, ...head, emit.sampler());
  return ops;
}

function attentionOps(
  config: ModelConfig,
  layer: LayerWeights<ModelWeight>,
  index: number,
  emit: Emitters,
  buffers: Buffers,
): OpSpec[] {
  const on = { layer: index, rows: 'tokens' } as const;
  const { numHeads: H, numKvHeads: G, headDim: K } = config;
  return [
    ...projectOps(layer.qkv, [H * K, G * K, G * K], layer.attnNorm, buffers.residual, buffers.qkv, 'qkv', on, emit),
    emit.rope(index, layer.qNorm, layer.kNorm),
    emit.kvWrite(index),
    emit.attention(index),
  ];
}

function feedForwardOps(
  { ffnSize: F }: ModelConfig,
  layer: LayerWeights<ModelWeight>,
  x: Rows,
  on: On,
  emit: Emitters,
  buffers: Buffers,
): OpSpec[] {
  // Gates and ups that the product has already joined only have to be rounded.
  const isJoined = layer.gateUp[0]?.weight.isGated ?? false;
  const gated = emit[isJoined ? 'quantise' : 'gate'](buffers.gateUp, layer.down.weight, on);
  return [
    ...projectOps(layer.gateUp, [F, F], layer.ffnNorm, x, buffers.gateUp, 'gate-up', on, emit),
    ...gated.ops,
    ...residualOps(layer.down, gated.inputs, layer.ffnPostNorm, x, on, emit, buffers),
  ];
}

/** norm(x) times stacked matrices, side by side in `out`. Matrices that take their input alike share it. */
function projectOps(
  stacked: Stacked<ModelWeight>,
  widths: readonly number[],
  norm: ModelWeight,
  x: Rows,
  out: Rows,
  label: string,
  on: On,
  emit: Emitters,
): OpSpec[] {
  const ops: OpSpec[] = [];
  const made = new Map<string, readonly Input[]>();
  let column = 0;
  for (const [i, linear] of stacked.entries()) {
    const kind = emit.inputKind(linear.weight);
    let inputs = made.get(kind);
    if (!inputs) {
      const normed = emit.norm(x, norm, linear.weight, on);
      ops.push(...normed.ops);
      inputs = normed.inputs;
      made.set(kind, inputs);
    }
    ops.push(...emit.product(linear, inputs, columnsOf(out, column), 'store', label, on));
    column += widths[i] ?? 0;
  }
  return ops;
}

/** x += product, or x += norm(product) where the model norms once more. */
function residualOps(
  linear: Linear<ModelWeight>,
  inputs: readonly Input[],
  postNorm: ModelWeight | null,
  x: Rows,
  on: On,
  emit: Emitters,
  buffers: Buffers,
): OpSpec[] {
  if (!postNorm) return emit.product(linear, inputs, x, 'add', 'residual', on);
  return [
    ...emit.product(linear, inputs, buffers.branch, 'store', 'residual', on),
    emit.postNorm(buffers.branch, postNorm, x, on),
  ];
}
