// Owns Gemma 3 text: sliding layers with a rope of their own, norms before and after each half, scaled embeddings.
import { XllmError } from '../../common/errors.ts';
import { type Architecture, type ConfigDelta, withRopes, withWindows } from './architecture.ts';
import type { LayerConfig, ModelConfig, RopeConfig } from './config.ts';
import type { Fields } from './fields.ts';
import { readRope, slidingLayers } from './hf-config.ts';

/** Every sixth layer is global unless the config lists the types. */
const defaultPattern = 6;

function gemma3(
  common: ModelConfig,
  window: number,
  isSliding: (layer: number) => boolean,
  ropes: { readonly local: RopeConfig; readonly global: RopeConfig },
): ConfigDelta {
  const layers = withWindows(common, (layer) => (isSliding(layer) ? window : null));
  return {
    activation: 'gelu_tanh',
    embeddingScale: Math.sqrt(common.hiddenSize),
    layers: withRopes(layers, (layer: LayerConfig) => (layer.window === null ? ropes.global : ropes.local)),
  };
}

/** `attention.sliding_window_pattern`: one flag per layer, or every how many layers one is global. */
function ggufPattern(fields: Fields): (layer: number) => boolean {
  if (!fields.has('attention.sliding_window')) return () => false;
  const key = 'attention.sliding_window_pattern';
  if (fields.isList(key)) {
    const flags = fields.list(key);
    return (layer) => flags?.[layer] === true;
  }
  const pattern = fields.count(key, defaultPattern);
  return (layer) => (layer + 1) % pattern !== 0;
}

/** What the published checkpoints do not use, and this file does not compute. */
function refuseSoftCaps(fields: Fields, ...keys: string[]): void {
  for (const key of keys) {
    if (fields.number(key, 0) !== 0) throw new XllmError('model_unsupported', `Gemma 3 with ${key} is not supported`);
  }
}

export const gemma3Text: Architecture = {
  hfName: 'Gemma3ForCausalLM',
  ggufName: 'gemma3',
  fromHf: (fields, common) => {
    refuseSoftCaps(fields, 'attn_logit_softcapping', 'final_logit_softcapping');
    if (fields.flag('use_bidirectional_attention', false)) {
      throw new XllmError('model_unsupported', 'Gemma 3 with use_bidirectional_attention is not supported');
    }
    const pattern = fields.count('sliding_window_pattern', fields.count('_sliding_window_pattern', defaultPattern));
    const isSliding = slidingLayers(fields, (layer) => (layer + 1) % pattern !== 0);
    const parameters = fields.nested('rope_parameters');
    const local = parameters?.nested('sliding_attention');
    const ropes = {
      local: local
        ? readRope(fields, local)
        : { base: fields.number('rope_local_base_freq', 10_000), scaling: { type: 'none' } as const },
      global: readRope(fields, parameters?.nested('full_attention') ?? null),
    };
    return {
      ...gemma3(common, fields.count('sliding_window'), isSliding, ropes),
      normOffset: 1,
      attentionScale: fields.number('query_pre_attn_scalar', common.headDim) ** -0.5,
    };
  },
  fromGguf: (fields, common) => {
    refuseSoftCaps(fields, 'final_logit_softcapping');
    const isSliding = ggufPattern(fields);
    const global = common.layers[0]?.rope ?? { base: 1_000_000, scaling: { type: 'none' } };
    const local: RopeConfig = { base: fields.number('rope.freq_base_swa', 10_000), scaling: { type: 'none' } };
    // Only the 27B model scales by the hidden size per head; its layer count tells, as in llama.cpp.
    const is27B = common.layers.length === 62;
    return {
      ...gemma3(common, fields.count('attention.sliding_window', common.maxPositions), isSliding, { local, global }),
      attentionScale: (is27B ? common.hiddenSize / common.numHeads : common.headDim) ** -0.5,
    };
  },
};
