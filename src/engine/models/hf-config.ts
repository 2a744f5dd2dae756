// Owns reading config.json, as published (`rope_theta`, `rope_scaling`) and as transformers 5 saves it (`rope_parameters`).
import { XllmError } from '../../common/errors.ts';
import type { Activation } from '../tensor/ops.ts';
import type { ModelConfig, RopeConfig } from './config.ts';
import { Fields } from './fields.ts';
import type { RopeScaling } from './rope-scaling.ts';

/** The common decoder; an architecture's delta comes on top. `generation`: generation_config.json. */
export function readHfConfig(fields: Fields, generation: Fields | null, architecture: string): ModelConfig {
  const hiddenSize = fields.count('hidden_size');
  const numHeads = fields.count('num_attention_heads');
  const headDim = fields.count('head_dim', hiddenSize / numHeads);
  if (fields.number('partial_rotary_factor', 1) !== 1) throw unsupported('rotation of a part of each head');
  const rope = readRope(fields, fields.nested('rope_parameters'));
  const numLayers = fields.count('num_hidden_layers');
  return {
    architecture,
    vocabSize: fields.count('vocab_size'),
    numIds: fields.count('vocab_size'),
    hiddenSize,
    ffnSize: fields.count('intermediate_size'),
    numHeads,
    numKvHeads: fields.count('num_key_value_heads', numHeads),
    headDim,
    normEps: fields.number('rms_norm_eps', 1e-6),
    normOffset: 0,
    activation: readActivation(fields),
    attentionScale: headDim ** -0.5,
    embeddingScale: 1,
    ropePairs: 'halves',
    maxPositions: fields.count('max_position_embeddings'),
    layers: Array.from({ length: numLayers }, () => ({ window: null, rope })),
    stopTokenIds: stopIds([...fields.tokenIds('eos_token_id'), ...(generation?.tokenIds('eos_token_id') ?? [])]),
  };
}

export function stopIds(ids: readonly number[]): number[] {
  return [...new Set(ids)].filter((id) => id >= 0).sort((a, b) => a - b);
}

/** `layer_types` where the config lists them; else `isSliding` decides. */
export function slidingLayers(fields: Fields, isSliding: (layer: number) => boolean): (layer: number) => boolean {
  const types = fields.list('layer_types');
  return types ? (layer) => types[layer] === 'sliding_attention' : isSliding;
}

const activations: Readonly<Record<string, Activation>> = {
  silu: 'silu',
  swish: 'silu',
  gelu_pytorch_tanh: 'gelu_tanh',
};

function readActivation(fields: Fields): Activation {
  const name = fields.text('hidden_activation', fields.text('hidden_act', 'silu'));
  const activation = activations[name];
  if (!activation) throw unsupported(`activation ${name}; supported: ${Object.keys(activations).join(', ')}`);
  return activation;
}

/**
 * `parameters` is `rope_parameters` or one entry of it. Without it the published keys hold: `rope_theta`, and
 * `rope_scaling` whose type is `rope_type` or, in older files, `type`.
 */
export function readRope(fields: Fields, parameters: Fields | null): RopeConfig {
  const scaling = parameters ?? fields.nested('rope_scaling');
  // Both kinds may leave the base to the top level.
  const base = (parameters?.has('rope_theta') ? parameters : fields).number('rope_theta', 10_000);
  return { base, scaling: scaling ? readScaling(scaling, fields) : { type: 'none' } };
}

function readScaling(scaling: Fields, config: Fields): RopeScaling {
  const type = scaling.text('rope_type', scaling.text('type', 'default'));
  const original = () =>
    scaling.count(
      'original_max_position_embeddings',
      config.count('original_max_position_embeddings', config.count('max_position_embeddings')),
    );
  switch (type) {
    case 'default':
      return { type: 'none' };
    case 'linear':
      return { type, factor: scaling.number('factor') };
    case 'llama3':
      return {
        type,
        factor: scaling.number('factor'),
        lowFreqFactor: scaling.number('low_freq_factor'),
        highFreqFactor: scaling.number('high_freq_factor'),
        originalMaxPositions: original(),
      };
    case 'yarn':
      return {
        type,
        factor: scaling.number('factor'),
        originalMaxPositions: original(),
        betaFast: scaling.number('beta_fast', 32),
        betaSlow: scaling.number('beta_slow', 1),
        attentionFactor: scaling.has('attention_factor') ? scaling.number('attention_factor') : null,
      };
    default:
      throw unsupported(`rope scaling ${type}; supported: default, linear, llama3, yarn`);
  }
}

function unsupported(what: string): XllmError {
  return new XllmError('model_unsupported', `config.json asks for ${what}`);
}
